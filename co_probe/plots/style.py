"""Common style of figures: fixed colour and dashes per method, and text that is legible at column width."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from co_probe.config.labels import labels, method_label
from co_probe.errors import UserError

COLUMN = 3.5  # inches: one column of a two-column page

# Okabe and Ito's colours, which people with any colour vision can tell apart; dashes tell them apart in grey.
# The first eight registered methods have a colour each; the next eight repeat them with other dashes, and so on.
# The two blues are apart in the order, since the first methods are often drawn together.
OKABE_ITO = ("#D55E00", "#CC79A7", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#000000", "#999999")
VERMILION, PINK, BLUE, GREEN, ORANGE, SKY, BLACK, GREY = OKABE_ITO
COLLAPSED = VERMILION  # shades every episode of catastrophic overfitting, whatever the method
DASHES = ("-", (0, (4, 1.2)), (0, (1.2, 1)), (0, (4, 1, 1, 1)))
LOOKS = len(OKABE_ITO) * len(DASHES)

BASELINE: dict[str, Any] = {"color": "0.45", "linewidth": 0.9}
RC: Any = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # text stays text in PDF and SVG
    "svg.fonttype": "none",
}


def method_style(method: str) -> dict[str, Any]:
    """Return the colour, dashes and label of a method's line.

    The order of registration determines colour and dashes. An unregistered name gets a combination that depends on the
    name alone and that no registered method has.
    """
    known = labels("method")
    if method in known:
        place = list(known).index(method) % LOOKS
    else:
        place = len(known) + sum(map(ord, method)) % max(1, LOOKS - len(known))
    turn, colour = divmod(place, len(OKABE_ITO))
    return {
        "color": OKABE_ITO[colour],
        "linestyle": DASHES[(colour + turn) % len(DASHES)],
        "label": method_label(method),
    }


@contextmanager
def paper_style() -> Iterator[None]:
    """Apply the style of this package inside the context."""
    with sns.axes_style("ticks"), plt.rc_context(RC):
        yield


def panels(rows: int = 1, height: float = 2.3, **options: Any) -> tuple[Figure, Any]:
    """Make a figure of one column's width with `rows` panels of `height` inches; return it and its axes."""
    return plt.subplots(rows, 1, figsize=(COLUMN, height * rows), **options)


def axes_or_new(ax: Axes | None) -> Axes:
    """Return `ax`, or the axes of a new figure."""
    return ax if ax is not None else panels()[1]


def check_name(path: Path) -> None:
    """Raise UserError if the format of a figure's file is unknown or its folder does not exist."""
    known = ["pdf", "png", "svg"]
    if path.suffix.lstrip(".").lower() not in known:
        raise UserError(f"cannot draw '{path}': the name must end in one of .{', .'.join(known)}")
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist")


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file name's suffix, and close it. Raises UserError if that fails."""
    check_name(path)
    try:
        figure.savefig(path, dpi=300)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    plt.close(figure)


def headless() -> None:
    """Select a matplotlib backend without a display."""
    matplotlib.use("Agg")

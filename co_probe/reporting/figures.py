"""Figures of a report as inline SVG in the colours of the page."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure as Drawing

from co_probe.config.probes import PROBES
from co_probe.errors import UserError
from co_probe.plots import PLOTS
from co_probe.plots.style import COLUMN
from co_probe.probes.named import make_probe, probe
from co_probe.probes.runner import Progress
from co_probe.reporting.drawing import draw, figure_spec, spans_of
from co_probe.store import StoredRun

CAPTIONS = {
    "deterioration": "Robust accuracy, and strength of the perturbations: accuracy of a fixed reference under them.",
    "indicators": "Recorded indicators of steps and epochs, in the order of their changes.",
    "gap": "The gap from FGSM to PGD-10: near 0 while FGSM finds what PGD finds, several nats after a collapse.",
    "robust-overfitting": "Accuracy on the images trained on, robust accuracy on test images, and the gap to PGD-10.",
    "perturbations": "Images and their FGSM perturbations at the most robust epoch, in the collapse, and at the end.",
    "steps": "Step sizes that APART has learned, in units of ε.",
    "spectrum": "Spatial frequencies of the perturbations.",
}
"""Figure -> caption, in order."""

OPTIONS: dict[str, dict[str, Any]] = {"robust-overfitting": {"against": "pgd10"}}
"""Options of figures that avoid measurements: training records PGD-10, but not PGD-20."""

COMPUTED = ("perturbations",)
"""Figures that run a model each time they are drawn."""

INK = re.compile(r"#(?:000000|262626)\b")
"""Black, and seaborn's grey of axes and text."""

PAPER = re.compile(r"#ffffff\b")
PARTS = re.compile(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", re.DOTALL)
SIZE = re.compile(r' (?:width|height)="[^"]*"')
ID = re.compile(r' id="[^"]*"')
REFERENCES = re.compile(r'(\bid="|href="#|url\(#)')


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        kind: The registered figure, or the probe.
        caption: Description in one sentence.
        alt: Alternative text for screen readers.
        svg: The `svg` element.
        runs: Names of the shown runs.
        wide: Whether it needs the width of the page.
    """

    kind: str
    caption: str
    alt: str
    svg: Markup
    runs: tuple[str, ...]
    wide: bool


def figures(
    runs: Sequence[StoredRun], *, quick: bool, device: str = "auto", progress: Progress | None = None
) -> tuple[list[Figure], list[str]]:
    """Draw all figures that support the runs.

    Args:
        runs: Runs with a finished epoch.
        quick: Skip figures that need measurements.
        device: Device of measurements.
        progress: Called while measuring.

    Returns:
        The figures, and one line with the reason for each skipped one.
    """
    drawn: list[Figure] = []
    left_out: list[str] = []
    episodes = {run.name: spans for run in runs if (spans := spans_of(run))}
    for kind in _kinds(runs):
        spec, options = figure_spec(kind), OPTIONS.get(kind, {})
        fit = [run for run in runs if not spec.unsupported(run, **options)]
        if not fit or (kind not in CAPTIONS and _missing(kind, fit)):  # a diagnosis measures these at a few epochs only
            continue
        try:
            if quick and (reason := _missing(kind, fit)):
                raise UserError(reason)
            drawing = draw(kind, fit, title="", device=device, progress=progress, **options)
        except UserError as error:
            left_out.append(f"Figure {kind}: {error}.")
            continue
        names = tuple(run.name for run in spec.shown(fit, episodes))
        caption = CAPTIONS.get(kind, f"All quantities of the probe {kind}.")
        alt = f"Figure {kind} of {', '.join(names)}. {caption} Its numbers are in the tables below."
        wide = drawing.get_figwidth() > 1.5 * COLUMN
        drawn.append(Figure(kind, caption, alt, to_svg(drawing, f"{kind}-{len(drawn)}"), names, wide))
    return drawn, left_out


def stored_drawings(run: StoredRun) -> Iterator[tuple[str, Drawing]]:
    """Yield the figures of a run, with their kinds, that need no measurement."""
    for kind in _kinds([run]):
        options = OPTIONS.get(kind, {})
        if not figure_spec(kind).unsupported(run, **options) and not _missing(kind, [run]):
            yield kind, draw(kind, run, **options)


def _kinds(runs: Sequence[StoredRun]) -> list[str]:
    """List the figures of `CAPTIONS`, and stored probes of all runs that have no figure."""
    stored = set.intersection(*(set(run.probes()) for run in runs))
    extra = [name for name in sorted(stored) if name in PROBES.entries and not PROBES.load(name).figure]
    return [kind for kind in CAPTIONS if kind in PLOTS.entries] + [
        name for name in extra if name not in ("masking", *CAPTIONS)
    ]


def _missing(kind: str, runs: Sequence[StoredRun]) -> str | None:
    """Describe missing measurements of a figure, or return None."""
    if kind in COMPUTED:
        return "perturbations are not stored"
    spec = figure_spec(kind)
    lacking: list[str] = []

    def stored(name: str, chosen: Sequence[StoredRun], **settings: Any) -> pd.DataFrame:
        made = make_probe(name, **settings)
        lacking.extend(run.name for run in chosen if made.table(run).missing)
        return pd.DataFrame() if lacking else probe(name, chosen, **settings)

    options = spec.options(**OPTIONS.get(kind, {}))
    for table in spec.tables.values():
        table(runs, options, stored)
        if lacking:
            return f"not measured yet of {', '.join(dict.fromkeys(lacking))}"
    return None


def to_svg(figure: Drawing, prefix: str) -> Markup:
    """Convert a figure to an `svg` element without a size, with text and background colours of the page.

    Args:
        figure: The figure, which is closed.
        prefix: Prefix of ids, which must be unique in the page.
    """
    text = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": prefix}):
        figure.savefig(text, format="svg", transparent=True)
    plt.close(figure)
    svg = PARTS.sub("", text.getvalue())
    svg = svg[svg.index("<svg") :]
    head, end, rest = svg.partition(">")
    svg = SIZE.sub("", head) + end + rest
    svg = _without_repeated_ids(REFERENCES.sub(rf"\g<1>{prefix}-", svg))
    svg = PAPER.sub("var(--card)", INK.sub("currentColor", svg))
    return Markup(svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1))


def _without_repeated_ids(svg: str) -> str:
    """Remove repeated ids, since matplotlib defines the glyphs of outlined text each time."""
    seen: set[str] = set()

    def once(match: re.Match[str]) -> str:
        repeated = match[0] in seen
        seen.add(match[0])
        return "" if repeated else match[0]

    return ID.sub(once, svg)

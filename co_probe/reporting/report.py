"""`co_probe.report`: runs as one self-contained HTML file."""

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup, escape

from co_probe.config.labels import bound_label
from co_probe.config.version import package_version
from co_probe.diagnosis.diagnose import Diagnosis, diagnose
from co_probe.errors import UserError
from co_probe.files.atomic import write_atomic
from co_probe.probes.runner import Progress, live_run
from co_probe.reporting.browser import Browser, browse
from co_probe.reporting.chart import Chart, chart
from co_probe.reporting.facts import (
    Cell,
    NumberTable,
    commands,
    environment_title,
    facts,
    metrics_table,
    number_cell,
    probe_tables,
    settings,
    training_command,
)
from co_probe.reporting.figures import Figure, figures
from co_probe.reporting.pages import environment, text
from co_probe.store import RunLike, StoredRun, opened

TONES = {
    "healthy": "good",
    "catastrophic": "bad",
    "recovered": "warn",
    "robust-overfitting": "warn",
    "diverged": "bad",
    "never-robust": "bad",
    "masked": "bad",
    "undecided": "neutral",
}
"""Verdict -> colour class."""


SOURCE = re.compile(r"(?P<text>.*) \[(?P<source>[^\[\]]+), (?P<url>https://[^\s\]]+)\]", re.DOTALL)
"""A line of a diagnosis with a source at its end."""


@dataclass(frozen=True)
class RunPart:
    """Part of a report about one run."""

    name: str
    tone: str
    headline: str
    diagnosis: Diagnosis
    collapsed: list[bool]
    chart: Chart
    browser: Browser | None
    facts: dict[str, str]
    settings: dict[str, str]
    environment: dict[str, str]
    environment_title: str
    tables: list[NumberTable]
    training: str | None
    commands: list[str]


@dataclass(frozen=True)
class Page:
    """Content of the template.

    Attributes:
        title: Heading.
        subtitle: Common facts about all runs.
        runs: The runs, in order.
        summary: Accuracies at the best and the last epoch.
        chosen_on: Split that determines the best epoch: `test`, `validation`, or both.
        figures: Figures of all runs together.
        left_out: Skipped content, with reasons.
        epochs: All epochs of all runs, sorted, for the slider.
        start: Initial epoch.
        jumps: {name: epoch} of shortcuts.
        open_sections: Unfolded sections of the diagnosis.
        version: Version of co-probe.
        today: Date, YYYY-MM-DD.
        command: Command that makes this page.
    """

    title: str
    subtitle: str
    runs: list[RunPart]
    summary: NumberTable
    chosen_on: str
    figures: list[Figure]
    left_out: list[str]
    epochs: list[int]
    start: int
    jumps: dict[str, int]
    open_sections: tuple[str, ...]
    version: str
    today: str
    command: str


def report(
    runs: RunLike | Iterable[RunLike],
    out: str | Path = "report.html",
    *,
    quick: bool = False,
    title: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    leaves_out: Callable[[str], object] | None = None,
) -> Path:
    """Write a report on runs as one self-contained HTML file.

    It has the verdict in words, a slider over epochs with images, perturbations and predictions, the figures of arXiv
    2010.08034 that support the runs, tables with 95% intervals, settings, environment, and the commands that reproduce
    it. Missing measurements are made and stored first.

    Args:
        runs: Paths or runs, one or several, which are shown side by side.
        out: File to write or replace.
        quick: Show stored results only, without images.
        title: Heading of the page; if None, the verdict of a single run, or the number of runs.
        device: Device of measurements: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        progress: Called while measuring with a label, the number of finished steps, and of all steps.
        leaves_out: Called with one line for each skipped content and its reason, which the page lists too.

    Returns:
        The path of the file.

    Raises:
        UserError: A path is not a run, no run has a finished epoch, or the file cannot be written.

    Example:
        >>> co_probe.report(["runs/fgsm", "runs/pgd"], "report.html")

    Reference:
        Figures as in Li et al. 2020, arXiv 2010.08034.
    """
    path = Path(out)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file, such as {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist")
    stored = opened(runs)
    if not stored:
        raise UserError("name at least one run")
    for run in stored:
        if not run.epochs:
            raise UserError(f"{run.name} has no finished epoch yet")
    matplotlib.use("Agg")
    left_out: list[str] = []
    parts = [_part(run, quick, device, progress, left_out) for run in stored]
    drawn, reasons = figures(stored, quick=quick, device=device, progress=progress)
    epochs = sorted({epoch for run in stored for epoch in run.epochs})
    page = Page(
        title=title or _title(parts),
        subtitle=_subtitle(stored),
        runs=parts,
        summary=_summary(list(zip(stored, parts, strict=True))),
        chosen_on=" or ".join(sorted({run.chosen_on for run in stored})),
        figures=drawn,
        left_out=[*left_out, *reasons],
        epochs=epochs,
        start=len(epochs) - 1,
        jumps=_jumps(parts, epochs),
        open_sections=("episodes", "timeline", "mechanism", "what_to_try_next") if len(parts) == 1 else (),
        version=package_version(),
        today=date.today().isoformat(),
        command=shlex.join(["co-probe", "report", *(str(run.path) for run in stored), "-o", path.name]),
    )
    write_atomic(path, render(page).encode("utf-8", "replace"))
    if leaves_out:
        for line in page.left_out:
            leaves_out(line)
    return path


def render(page: Page) -> str:
    """Render a report to HTML, with all text escaped."""
    templates = environment()
    templates.filters["linked"] = _linked
    template = templates.from_string(text("report.html.jinja"))
    return template.render(
        page=page, style=Markup(text("report.css")), script=Markup(text("report.js")), data=_script_data(page)
    )


def _part(run: StoredRun, quick: bool, device: str, progress: Progress | None, left_out: list[str]) -> RunPart:
    if not quick:
        run = live_run(run)  # has facts that old files lack
    found = diagnose(run, quick=quick, device=device, progress=progress)
    collapsed = [epoch for epoch in run.epochs if found.verdict.collapsed(epoch)]
    browser = None
    if quick:
        left_out.append(f"Images of {run.name}: perturbations are not stored, and only stored results were asked for.")
    else:
        try:
            browser = browse(run, device=device, progress=progress)
        except UserError as error:
            left_out.append(f"Images of {run.name}: {error}.")
    table = metrics_table(run, collapsed)
    return RunPart(
        name=run.name,
        tone=TONES[found.verdict.kind],
        headline=found.verdict.headline[:1].upper() + found.verdict.headline[1:],
        diagnosis=found,
        collapsed=[epoch in collapsed for epoch in run.epochs],
        chart=chart(found.curves, found.verdict),
        browser=browser,
        facts=facts(run),
        settings=settings(run),
        environment={name: str(value) for name, value in run.environment.items()},
        environment_title=environment_title(run),
        tables=[*([table] if table else []), *probe_tables(run, collapsed)],
        training=training_command(run),
        commands=list(commands(run)),
    )


def _linked(line: str) -> Markup:
    """Escape a line of a diagnosis, with the address at its end as a link."""
    found = SOURCE.fullmatch(line)
    if not found:
        return escape(line)
    return Markup('{} [<a href="{}">{}</a>]').format(found["text"], found["url"], found["source"])


def _title(parts: Sequence[RunPart]) -> str:
    if len(parts) == 1:
        return f"{parts[0].name}: {parts[0].diagnosis.verdict.headline}"
    fallen = sum(part.diagnosis.verdict.kind in ("catastrophic", "recovered") for part in parts)
    return f"{fallen or 'None'} of {len(parts)} runs overfitted catastrophically"


def _subtitle(runs: Sequence[StoredRun]) -> str:
    """Return data set and ε as far as all runs agree."""
    data = {run.info.data for run in runs}
    bounds = {bound_label(run.epsilon, run.norm) for run in runs}
    methods = {run.info.method for run in runs}
    return ", ".join(values.pop() for values in (methods, data, bounds) if len(values) == 1)


def _jumps(parts: Sequence[RunPart], epochs: Sequence[int]) -> dict[str, int]:
    """Return shortcut epochs of the first run that has collapsed, or else of the first run."""
    found = next((part.diagnosis.verdict for part in parts if part.diagnosis.verdict.episodes), None)
    if found is None:
        best = parts[0].diagnosis.verdict.best_epoch
        return {"first": epochs[0]} | ({} if best is None else {"most robust": best}) | {"last": epochs[-1]}
    first, last = found.episodes[0], found.episodes[-1]
    jumps = {"before the collapse": max([epoch for epoch in epochs if epoch < first.start], default=epochs[0])}
    jumps["collapse begins"] = first.start
    if last.end is not None and last.end < epochs[-1]:
        jumps["collapse has ended"] = min(epoch for epoch in epochs if epoch > last.end)
    return jumps | {"last": epochs[-1]}


def _summary(pairs: Sequence[tuple[StoredRun, RunPart]]) -> NumberTable:
    """Make the table of accuracies at the best and last epochs."""
    shown = {"clean": "clean", "fgsm": "FGSM", "pgd10": "PGD-10"}
    rows = []
    for run, part in pairs:
        frame = run.frame("metrics")
        if not len(frame):
            continue
        for when, epoch in dict.fromkeys([("best", run.best_epoch), ("last", run.last_epoch)]):
            at = frame[frame["epoch"] == epoch].set_index("quantity")
            cells = [
                number_cell(at.loc[name, "value"], at.loc[name, "low"], at.loc[name, "high"], share=name != "gap")
                if name in at.index
                else Cell("")
                for name in (*shown, "gap")
            ]
            name = f"{when} epoch ({epoch})"
            rows.append([Cell(name if len(pairs) == 1 else f"{part.name}, {name}"), *cells])
    return NumberTable("Best and last epoch", ["" if len(pairs) == 1 else "run", *shown.values(), "gap (nats)"], rows)


def _script_data(page: Page) -> list[dict[str, Any]]:
    """Return the data of the slider per run."""
    return [
        {
            "epochs": part.chart.epochs,
            "places": part.chart.places,
            "collapsed": part.collapsed,
            "values": {line.key: line.values for line in part.chart.lines},
            "shown": part.browser.epochs if part.browser else [],
            "predictions": [
                [[[p.label, round(100 * p.share), p.right] for p in epoch] for epoch in row.predictions]
                for row in (part.browser.rows if part.browser else [])
            ],
        }
        for part in page.runs
    ]

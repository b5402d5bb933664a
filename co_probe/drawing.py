"""A figure from runs on disk: which tables it needs, and where they come from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from co_probe.config.labels import NORMS, bound_label
from co_probe.errors import UserError
from co_probe.plots import PLOTS
from co_probe.plots.kind import Kind
from co_probe.plots.style import paper_style
from co_probe.store import StoredRun
from co_probe.studies.injection.settings import Inject

Progress = Callable[[str, int, int], None]
TRADE_OFF = ("clean", "pgd20")  # the attacks of Figure 4's axes
WIDE = 55  # letters that fit above a figure


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to draw of a run, where there is a choice.

    `against`: the attack B of the gap or of a phase diagram, or what robust means (the figure's usual one, if None);
    `reference`: whose strength, by its file's name (the newest, if None); `generator`: whose perturbations are measured
    and shown.
    """

    against: str | None = None
    reference: str | None = None
    generator: str = "fgsm"
    device: str = "auto"
    progress: Progress | None = None


Table = Callable[[Sequence[StoredRun], Request], pd.DataFrame]


def objection(kind: str, run: StoredRun, request: Request) -> str | None:
    """Why `run` cannot be in the figure `kind`, or None if it can."""
    if not run.epochs:
        return f"{run.name} has no finished epoch yet"
    needs = _spec(kind).needs
    if "steps" in needs and not len(run.frame("steps")):
        return f"{run.name} learns no step sizes (only APART does)"
    if "perturbations" in needs and run.norm != "linf":
        return f"{run.name} has perturbations in an {NORMS[run.norm]} ball, which the colours from −ε to ε do not fit"
    if kind == "phases" and run.config.model.name != "two_layer_cnn":
        return f"{run.name} has no signal and noise components (runs of the preset patches have)"
    if "capacity" in needs and not isinstance(run.config.model.settings.get("width"), int):
        return f"{run.name} has a model without a width among its settings"
    if "strength" in needs and not len(_strength_rows(run, request)):
        return f"{run.name} has no such strength measured yet: co-probe strength --reference FILE.pt {run.path}"
    return None


def draw(kind: str, runs: Sequence[StoredRun], request: Request | None = None, title: str | None = None) -> Figure:
    """The figure `kind` of `runs`; a gap or an evaluation that was not measured before is measured first.

    `title`: data set and ε, as far as all runs agree on them, if it is None. Raises UserError for an unknown kind, or
    the `objection` of a run.

    >>> co_probe.draw("gap", [co_probe.open_run("runs/fgsm")]).savefig("gap.png")
    """
    request = request or Request()
    spec = _spec(kind)
    for run in runs:
        if reason := objection(kind, run, request):
            raise UserError(reason)
    if {"perturbations", "spectrum"} & set(spec.needs):  # of one run: the first that has an onset, else the first
        runs = [next((run for run in runs if run.onset is not None), runs[0])]
    if kind == "phases":  # of one run, too
        runs = runs[:1]
    request = replace(request, against=request.against or spec.against)
    frames = {table: TABLES[table](runs, request) for table in spec.needs}
    onsets = {run.name: onset for run in runs if (onset := run.onset) is not None}
    with paper_style():
        figure = spec.draw(frames, onsets)
        figure.suptitle(fill(_title(runs), WIDE) if title is None else title, fontsize=8)
    return figure


def _spec(kind: str) -> Kind:
    return PLOTS.load(kind)


def _stored(name: str) -> Callable[[Sequence[StoredRun], Request], pd.DataFrame]:
    return lambda runs, request: pd.concat([run.frame(name) for run in runs], ignore_index=True)


def _gap_rows(run: StoredRun, request: Request) -> pd.DataFrame:
    frame = run.frame("gap")
    if not len(frame):
        return frame
    return frame[
        (frame["against"] == request.against) & (frame["generator"] == request.generator) & (frame["split"] == "test")
    ]


def _gap(runs: Sequence[StoredRun], request: Request) -> pd.DataFrame:
    """The gap's table, measured where it is not stored; torch is needed only then."""
    tables = [_gap_rows(run, request) for run in runs]
    if all(len(table) and set(run.epochs) <= set(table["epoch"]) for run, table in zip(runs, tables, strict=True)):
        return pd.concat(tables, ignore_index=True)
    from co_probe.probes.gap import gap

    paths = [run.path for run in runs]
    return gap(
        paths, request.against or "pgd10", generator=request.generator, device=request.device, progress=request.progress
    )


def _strength_rows(run: StoredRun, request: Request) -> pd.DataFrame:
    """The rows of one reference: the one asked for, or the newest."""
    frame = run.frame("strength")
    if not len(frame):
        return frame
    frame = frame[(frame["generator"] == request.generator) & (frame["split"] == "test")]
    if request.reference:
        frame = frame[frame["reference"] == Path(request.reference).name]
    return frame[frame["reference_id"] == frame["reference_id"].iloc[-1]] if len(frame) else frame


def _strength(runs: Sequence[StoredRun], request: Request) -> pd.DataFrame:
    return pd.concat([_strength_rows(run, request) for run in runs], ignore_index=True)


def _perturbations(runs: Sequence[StoredRun], request: Request) -> pd.DataFrame:
    from co_probe.probes.perturbations import perturbations
    from co_probe.runs import Run

    return perturbations(Run(runs[0].path), generator=request.generator)


def _eval_rows(run: StoredRun) -> pd.DataFrame:
    """Clean and PGD-20 accuracy of the run's best epoch, each on as many images as it was ever measured on."""
    frame = run.frame("eval")
    if not len(frame):
        return frame
    frame = frame[(frame["epoch"] == run.best_epoch) & frame["attack"].isin(TRADE_OFF)]
    return frame.sort_values("n", kind="stable").drop_duplicates("attack", keep="last")


def _eval(runs: Sequence[StoredRun], request: Request) -> pd.DataFrame:
    """The evaluation's table, measured on all test images where it is not stored; torch is needed only then.

    Raises UserError for runs on different images, whose accuracies are not to be compared.
    """
    if len({(run.config.data.name, str(run.config.extensions), run.norm) for run in runs}) > 1:
        raise UserError(
            "trade-off compares runs on the same images and in balls of one norm: name them, or --runs FOLDER"
        )
    tables = [_eval_rows(run) for run in runs]
    if missing := [run.path for run, rows in zip(runs, tables, strict=True) if len(rows) < len(TRADE_OFF)]:
        from co_probe.probes.eval import evaluate

        evaluate(missing, TRADE_OFF, device=request.device, progress=request.progress)
        tables = [_eval_rows(run) for run in runs]
    return pd.concat(tables, ignore_index=True)


def _memorisation_rows(run: StoredRun, request: Request) -> pd.DataFrame:
    frame = run.frame("memorisation")
    return frame[frame["against"] == request.against] if len(frame) else frame


def _memorisation(runs: Sequence[StoredRun], request: Request, last: bool = False) -> pd.DataFrame:
    """The table of memorisation, of all epochs or the last of each run, measured where it is not stored."""
    tables = [_memorisation_rows(run, request) for run in runs]
    wanted = [set(run.epochs[-1:] if last else run.epochs) for run in runs]
    if any(not len(table) or epochs - set(table["epoch"]) for table, epochs in zip(tables, wanted, strict=True)):
        from co_probe.studies.memorisation.probe import memorisation

        paths, against = [run.path for run in runs], request.against or "method"
        memorisation(paths, against, last=last, device=request.device, progress=request.progress)
        tables = [_memorisation_rows(run, request) for run in runs]
    return pd.concat(
        [table[table["epoch"].isin(epochs)] for table, epochs in zip(tables, wanted, strict=True)], ignore_index=True
    )


def _capacity(runs: Sequence[StoredRun], request: Request) -> pd.DataFrame:
    """Memorisation after each run's last epoch, with the `width` of its model. Raises UserError for a single width."""
    if len({run.config.model.settings["width"] for run in runs}) < 2:
        raise UserError("capacity needs runs of several widths: co-probe sweep ... --vary model.width=4,8,16")
    tables = [_memorisation([run], request, last=True).assign(width=run.config.model.settings["width"]) for run in runs]
    return pd.concat(tables, ignore_index=True)


def _cells(runs: Sequence[StoredRun], request: Request) -> pd.DataFrame:
    """A row a run: β, ε, accuracy after its last epoch under PGD-10 or the attack B, and its onset (0: none)."""
    attack = request.against or "pgd10"
    rows = [
        {
            **run.labels(run.last_epoch, "cells"),
            "beta": run.config.extension(Inject).beta,
            "epsilon": run.epsilon,
            "attack": attack,
            "value": run.metrics(run.last_epoch)["pgd10"] if attack == "pgd10" else _last_under(run, attack, request),
            "onset": run.onset or 0,
        }
        for run in runs
    ]
    return pd.DataFrame(rows)


def _last_under(run: StoredRun, attack: str, request: Request) -> float:
    """Accuracy of the last epoch under an attack of `eval`, on as many images as it was measured on; else on all."""
    frame = run.frame("eval")
    frame = frame[(frame["epoch"] == run.last_epoch) & (frame["attack"] == attack)] if len(frame) else frame
    if not len(frame):
        from co_probe.probes.eval import evaluate

        frame = evaluate(run.path, [attack], epoch="last", device=request.device, progress=request.progress)
        frame = frame[frame["attack"] == attack]
    return frame.sort_values("n", kind="stable")["value"].iloc[-1]


def _probed(name: str, settings: Callable[[Request], Mapping[str, Any]]) -> Table:
    """The table of a probe with these settings, measured where it is not stored; torch is needed only then."""

    def rows(run: StoredRun, request: Request) -> pd.DataFrame:
        frame = run.frame(name)
        for column, value in settings(request).items() if len(frame) else ():
            frame = frame[frame[column] == value]
        return frame

    def table(runs: Sequence[StoredRun], request: Request) -> pd.DataFrame:
        frames = [rows(run, request) for run in runs]
        if all(len(f) and set(run.epochs) <= set(f["epoch"]) for run, f in zip(runs, frames, strict=True)):
            return pd.concat(frames, ignore_index=True)
        from co_probe.probes.named import probe

        paths = [run.path for run in runs]
        return probe(name, paths, device=request.device, progress=request.progress, **settings(request))

    return table


_curvature = _probed("curvature", lambda request: {"top": 1, "images": 256, "split": "test"})
_views = _probed("views", lambda request: {"split": "test"})


def _inside(runs: Sequence[StoredRun], request: Request) -> pd.DataFrame:
    """Curvature, and accuracies on the views where there are carriers, of a single run; of several, nothing."""
    if len(runs) > 1:
        return pd.DataFrame()
    tables = [_curvature, *([_views] if runs[0].config.extension(Inject).beta else [])]
    return pd.concat([table(runs, request) for table in tables], ignore_index=True)


TABLES: dict[str, Table] = {
    "capacity": _capacity,
    "cells": _cells,
    "eval": _eval,
    "gap": _gap,
    "inside": _inside,
    "memorisation": _memorisation,
    "metrics": _stored("metrics"),
    "perturbations": _perturbations,
    "spectrum": _probed("spectrum", lambda request: {"generator": request.generator, "below": 0, "split": "test"}),
    "steps": _stored("steps"),
    "strength": _strength,
}


def _title(runs: Sequence[StoredRun]) -> str:
    """Data set and ε, or the data set alone, where all runs agree on them; of a single run, its name too."""
    names = {run.config.data_title for run in runs}
    titles = {f"{run.config.data_title}, {bound_label(run.epsilon, run.norm)}{run.config.caption}" for run in runs}
    title = (titles if len(titles) == 1 else names).pop() if len(names) == 1 else ""
    return title if len(runs) > 1 else f"{title} (run {runs[0].name})"

"""Diagnosis of a run or a training log: verdict, episodes, limits of the evidence, and measures to try."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from co_probe.diagnosis.accuracy import measure_accuracy
from co_probe.diagnosis.logs import AccuracyLog, read_logs
from co_probe.diagnosis.measuring import measure_for, measure_masking
from co_probe.diagnosis.sections import SECTIONS, Evidence, Section
from co_probe.diagnosis.stored import classes_of, curves_of, images_of, verdict_of
from co_probe.diagnosis.verdict import DEFAULT_IMAGES, Verdict, verdict
from co_probe.errors import UserError, listing
from co_probe.probes.runner import Progress
from co_probe.store import StoredRun

HDF5 = b"\x89HDF\r\n\x1a\n"  # first bytes of a packed run
Source: TypeAlias = "str | Path | StoredRun | pd.DataFrame | Mapping[str, Any]"
Columns: TypeAlias = Mapping[str, str | None]


@dataclass(frozen=True)
class Diagnosis:
    """Diagnosis of a run.

    Attributes:
        name: Name of the run or of the log.
        verdict: The verdict.
        curves: Accuracies in [0, 1] of the verdict: columns epoch, pgd, and clean, fgsm, train where known.
        basis: Basis of the verdict in one sentence: epochs, images, classes, columns of the log.
        images: Number of images of the accuracies; None if unknown (`DEFAULT_IMAGES` assumed).
        classes: Number of classes; None if unknown.
        sections: Episodes, timeline, mechanism, checks for masked gradients, notes, what to try next.
    """

    name: str
    verdict: Verdict
    curves: pd.DataFrame
    basis: str
    images: int | None
    classes: int | None
    sections: tuple[Section, ...]

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.verdict.headline}", "", self.verdict.summary(), self.basis]
        for section in self.sections:
            parts += ["", section.title, *(f"- {line}" for line in section.lines)]
        return "\n".join(parts)

    def to_markdown(self) -> str:
        """Format the diagnosis as Markdown, with a heading of level 2 and one of level 3 per section."""
        parts = [f"## {self.name}: {self.verdict.headline}", self.verdict.summary(), self.basis]
        for section in self.sections:
            parts += [f"### {section.title}", "\n".join(f"- {line}" for line in section.lines)]
        return "\n\n".join(parts) + "\n"

    _repr_markdown_ = to_markdown

    def to_dict(self) -> dict[str, Any]:
        """Convert the diagnosis to plain data for JSON; NaN becomes None."""
        found = self.verdict
        return {
            "name": self.name,
            "kind": found.kind,
            "headline": found.headline,
            "summary": found.summary(),
            "onset": found.onset,
            "epochs": found.epochs,
            "last_epoch": found.last_epoch,
            "best_epoch": found.best_epoch,
            "best": _number(found.best),
            "last": _number(found.last),
            "recovered": _number(found.recovered),
            "reasons": list(found.reasons),
            "images": self.images,
            "classes": self.classes,
            "basis": self.basis,
            **{section.key: section.data for section in self.sections},
        }


def diagnose(
    source: Source,
    *,
    columns: Columns | None = None,
    images: int | None = None,
    classes: int | None = None,
    quick: bool = False,
    model: Any = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Diagnosis:
    """Diagnose a run of co-probe, or a training log of any program.

    For a run, unless `quick`, the probe `masking` is measured at the best and the last epoch and stored. If the run has
    collapsed, probes that explain why are measured at the epochs around (`co_probe.diagnosis.measuring.PROBES`). Notes
    say what could not be measured.

    Args:
        source: A run (its path or the object), a CSV file, a folder of TensorBoard events, a data frame or a mapping of
            columns. `co_probe.diagnosis.logs.read_logs` describes formats of logs.
        columns: Columns (for TensorBoard: tags) of a log that are not recognised by name: {"clean": "val_acc", "pgd":
            "pgd_acc"}. None omits a curve.
        images: Number of test images of the accuracies; that of the run, or 1,000 for a log, if None.
        classes: Number of classes, which determines the accuracy of guessing; that of the run if None.
        quick: Use stored results only, without measuring.
        model: The network of an imported run, as for `open_run`, if the run names no importable code.
        device: Device of measurements: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        progress: Called after each measured epoch with the run's name, the number of finished epochs, and of all
            epochs.

    Returns:
        The diagnosis; print it, or use `to_dict` and `to_markdown`.

    Raises:
        UserError: The source cannot be read, or holds several runs.

    Example:
        >>> print(co_probe.diagnose("log.csv", images=10000, classes=10))
    """
    found = diagnose_all(
        [source],
        columns=columns,
        images=images,
        classes=classes,
        quick=quick,
        model=model,
        device=device,
        progress=progress,
    )
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:3])
        raise UserError(f"the log holds {len(found)} runs ({names}, ...): pass the rows of one of them")
    return found[0]


def diagnose_all(
    sources: Iterable[Source],
    *,
    columns: Columns | None = None,
    images: int | None = None,
    classes: int | None = None,
    quick: bool = False,
    model: Any = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Diagnosis]:
    """Diagnose several runs or logs, with the arguments of `diagnose`; a log may hold several runs."""
    if images is not None and images < 1:
        raise UserError(f"images={images}: the number of test images must be positive")
    if classes is not None and classes < 2:
        raise UserError(f"classes={classes}: there must be at least two")
    found = []
    for source in sources:
        run = _as_run(source, model)
        if run is None:
            assert not isinstance(source, StoredRun)
            found += [_of_log(log, images, classes) for log in read_logs(source, columns)]
        elif columns:
            raise UserError(f"{run.path} is a run of co-probe, and columns are for logs: leave them out")
        else:
            problems = () if quick else _measure(run, device, progress)
            found.append(_of_run(run, images, classes, problems))
    return found


def _as_run(source: Source, model: Any) -> StoredRun | None:
    """Open a source as a run, with its network if given; None if it is a log."""
    if isinstance(source, StoredRun):
        return source
    if not isinstance(source, str | Path) or not _is_run(Path(source)):
        return None
    if model is None:
        return StoredRun(source)
    from co_probe.runs.run import open_with

    return open_with(source, model)


def _is_run(path: Path) -> bool:
    if path.is_dir():
        return (path / "run.h5").exists()
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5)) == HDF5
    except OSError:
        return False  # the reader of logs raises the error


def _measure(run: StoredRun, device: str, progress: Progress | None) -> tuple[str, ...]:
    """Measure what the diagnosis needs; return reasons for missing measurements."""
    masking = measure_accuracy(run, device=device, progress=progress)  # the basis of everything else
    masking = masking or measure_masking(run, device=device, progress=progress)
    indicators = None if masking else measure_for(run, verdict_of(run), device=device, progress=progress)
    notes = ("not checked for masked gradients: ", masking), ("indicators were not measured: ", indicators)
    return tuple(what + reason for what, reason in notes if reason)


def _of_run(run: StoredRun, images: int | None, classes: int | None, notes: tuple[str, ...]) -> Diagnosis:
    images, classes = images or images_of(run), classes or classes_of(run)
    found, curves = verdict_of(run, images=images, classes=classes), curves_of(run)
    basis = [_on(found, images, classes, "validation" if run.chosen_on == "validation" else "test")]
    if run.epochs and run.last_epoch < run.planned:
        basis.append(f"The run is not finished: {run.last_epoch} of {run.planned} epochs.")
    return _diagnosis(run.name, found, curves, " ".join(basis), images, classes, notes=notes, run=run)


def _of_log(log: AccuracyLog, images: int | None, classes: int | None) -> Diagnosis:
    images = images or log.images
    arguments: dict[str, Any] = dict(log.curves)
    notes = list(log.notes)
    if "fgsm" not in arguments and "train" in arguments:
        arguments["fgsm"] = arguments.pop("train")
        notes.append(f"the training attack is judged on training images ({log.columns['train']})")
    found = verdict(**arguments, epochs=log.epochs.tolist(), n=images or DEFAULT_IMAGES, classes=classes)
    columns = ", ".join(f"{curve} from {column}" for curve, column in log.columns.items())
    unread = f" Not read: {listing(log.unread)}." if log.unread else ""
    basis = f"{_on(found, images, classes)} Columns: {columns}.{unread}"
    curves = pd.DataFrame({"epoch": log.epochs, **log.curves})
    return _diagnosis(log.name, found, curves, basis, images, classes, notes=tuple(notes))


def _diagnosis(
    name: str,
    found: Verdict,
    curves: pd.DataFrame,
    basis: str,
    images: int | None,
    classes: int | None,
    *,
    notes: tuple[str, ...] = (),
    run: StoredRun | None = None,
) -> Diagnosis:
    evidence = Evidence(found, curves, notes, run)
    sections = tuple(section for make in SECTIONS if (section := make(evidence)) is not None)
    return Diagnosis(name, found, curves, basis, images, classes, sections)


def _on(found: Verdict, images: int | None, classes: int | None, split: str = "test") -> str:
    """Describe the amount of evidence in one sentence."""
    epochs = f"{found.epochs} logged epoch{'s' * (found.epochs != 1)}"
    on = f"{images:,} {split} images" if images else f"an assumed {DEFAULT_IMAGES:,} test images"
    return f"Judged on {epochs} and {on} of {classes or 'an unknown number of'} classes."


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)

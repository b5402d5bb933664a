"""Verdict on a stored run from its metrics."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import pandas as pd

from co_probe.diagnosis.accuracy import measured_accuracy
from co_probe.diagnosis.masking import masking_evidence
from co_probe.diagnosis.verdict import DEFAULT_IMAGES, Switch, Verdict, verdict

NAN = float("nan")
METRICS = {"clean": ("clean",), "fgsm": ("train_attack", "fgsm"), "pgd": ("pgd10",), "train": ("train_accuracy",)}
"""Curve -> metrics, of which the first that the run has is used.

In a run with validation images, all but `train` have the prefix `validation_`.
"""


class MeasuredRun(Protocol):
    """Part of a run that the verdict uses; `co_probe.store.StoredRun` and `co_probe.Run` have it."""

    @property
    def epsilon(self) -> float:
        """Norm bound, in pixel units."""

    @property
    def epochs(self) -> list[int]:
        """Finished epochs, from 1, sorted."""

    @property
    def info(self) -> Any:
        """Facts about the run: `attack`, `classes`, `steps_per_epoch` and, with a guard, `settings`."""

    @property
    def stopped(self) -> int:
        """The step at which the guard has ended the run; 0 if it has not."""

    @property
    def chosen_on(self) -> str:
        """Split that determines the verdict, `validation` or `test`."""

    @property
    def probe_set(self) -> Mapping[str, Any]:
        """Numbers of the probe images, by split."""

    def metrics(self, epoch: int) -> dict[str, float]:
        """Return the metrics of an epoch."""

    def frame(self, probe: str) -> pd.DataFrame:
        """Return the stored table of a probe."""


def curves_of(run: MeasuredRun) -> pd.DataFrame:
    """Return stored accuracy curves: training metrics or, without them, those of the probe `accuracy`.

    Args:
        run: The run.

    Returns:
        Columns epoch, pgd (NaN if not measured), and clean, fgsm (accuracy under the training attack, or under FGSM if
        that is not stored) and train where stored; one row per finished epoch.
    """
    metrics = {epoch: run.metrics(epoch) for epoch in run.epochs}
    if not any("pgd10" in each for each in metrics.values()):
        measured = measured_accuracy(run)
        metrics = {epoch: measured.get(epoch, {}) | each for epoch, each in metrics.items()}
    columns: dict[str, list[float]] = {}
    prefix = "validation_" if run.chosen_on == "validation" else ""
    for curve, names in METRICS.items():
        if curve != "train":
            names = tuple(prefix + name for name in names)
        stored = next((name for name in names if any(name in each for each in metrics.values())), None)
        if stored or curve == "pgd":
            columns[curve] = [each.get(stored or "", float("nan")) for each in metrics.values()]
    return pd.DataFrame({"epoch": pd.Series(metrics.keys(), dtype="int64"), **columns})


def verdict_of(run: MeasuredRun, *, images: int | None = None, classes: int | None = None) -> Verdict:
    """Diagnose a run from stored metrics.

    Clean training is `never-robust`, since it has no training attack to overfit to. A run is `masked` if results of the
    probe `masking` are stored (as by `diagnose`) and give evidence.

    Args:
        run: The run; during training, finished epochs are used.
        images: Number of images of the accuracies; that of the run if None.
        classes: Number of classes; that of the run if None.

    Returns:
        The verdict, on validation images if the run has some; `undecided` without a finished epoch, or without accuracy
        under PGD-10.

    Example:
        >>> verdict_of(co_probe.open_run("runs/fgsm")).onset
        14
    """
    curves, masking = curves_of(run), masking_evidence(run)
    if curves["pgd"].isna().all() and not (masking and len(curves)):
        reason = "no accuracy under PGD-10 is stored" if len(curves) else "no epoch is finished yet"
        return Verdict(
            "undecided", [], 0, None, None, NAN, NAN, reasons=(reason,), sentences=(f"Undecided: {reason}.",)
        )
    found = verdict(
        **{curve: curves[curve] for curve in METRICS if curve in curves},
        epochs=curves["epoch"],
        n=images or images_of(run) or DEFAULT_IMAGES,
        classes=classes or classes_of(run),
        masking=masking,
    )
    if not masking and trained_on_clean_images(run, curves):
        return _of_clean_training(found, curves)
    switch = switch_of(run)
    return replace(found, switch=switch, sentences=(*found.sentences, f"T{str(switch)[1:]}.")) if switch else found


def switch_of(run: MeasuredRun) -> Switch | None:
    """Return the action of a run's guard; None if it has not acted, or there is no guard."""
    switched = ((epoch, run.metrics(epoch).get("guard_step", 0)) for epoch in run.epochs)
    stopped = run.epochs[-1] + 1 if run.epochs else 1, run.stopped  # in an epoch that is not stored
    epoch, step = next(((epoch, step) for epoch, step in switched if step), stopped)
    if not step:
        return None
    per_epoch = run.info.steps_per_epoch
    return Switch(int(step), step / per_epoch if per_epoch else epoch - 0.5, run.info.settings["guard"])


def images_of(run: MeasuredRun) -> int | None:
    """Return the number of images of the verdict; None if unknown."""
    return len(run.probe_set.get(run.chosen_on, ())) or None


def classes_of(run: MeasuredRun) -> int | None:
    """Return the number of classes of a run; None if unknown (schema 1 and 2)."""
    return len(run.info.classes) or None


def trained_on_clean_images(run: MeasuredRun, curves: pd.DataFrame) -> bool:
    """Return whether a run was trained without an attack, by its facts or its accuracies."""
    if run.info.attack is not None:
        return run.info.attack == "standard"
    return (
        "train_attack" in run.metrics(run.epochs[-1])
        and "fgsm" in curves
        and bool((curves["fgsm"] == curves.get("clean")).all())
    )


def _of_clean_training(found: Verdict, curves: pd.DataFrame) -> Verdict:
    """Adapt a verdict to clean training, which does not aim at accuracy under PGD."""
    known = curves.dropna(subset=["pgd"])
    last = known.iloc[-1]
    text = (
        f"The run was trained on clean images, so there is no training attack to overfit to: accuracy under PGD is "
        f"{100 * last['pgd']:.1f}% at epoch {last['epoch']:.0f}."
    )
    return replace(found, kind="never-robust", episodes=[], recovered=None, reasons=(), notes=(), sentences=(text,))

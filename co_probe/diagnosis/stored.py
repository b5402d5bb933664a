"""The verdict on a stored run, from the metrics that it holds."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import pandas as pd

from co_probe.diagnosis.accuracy import measured_accuracy
from co_probe.diagnosis.masking import masking_evidence
from co_probe.diagnosis.verdict import DEFAULT_IMAGES, Switch, Verdict, verdict

NAN = float("nan")
METRICS = {"clean": ("clean",), "fgsm": ("train_attack", "fgsm"), "pgd": ("pgd10",), "train": ("train_accuracy",)}
"""Metrics of a run that each curve is read from; the first that the run has is taken.

Of a run with validation images, all but the last are those with the prefix `validation_`.
"""


class MeasuredRun(Protocol):
    """Part of a run that the verdict uses; `co_probe.store.StoredRun` and `co_probe.Run` have it."""

    @property
    def epsilon(self) -> float:
        """Norm bound, in pixel units."""

    @property
    def epochs(self) -> list[int]:
        """The finished epochs, from 1, sorted."""

    @property
    def info(self) -> Any:
        """The facts of the run: `attack`, `classes`, `steps_per_epoch` and, of a run with a guard, `settings`."""

    @property
    def stopped(self) -> int:
        """The step at which the guard has ended the run; 0 if it has not."""

    @property
    def chosen_on(self) -> str:
        """The split that the verdict is reached on, `validation` or `test`."""

    @property
    def probe_set(self) -> Mapping[str, Any]:
        """Numbers of the probe images, by split."""

    def metrics(self, epoch: int) -> dict[str, float]:
        """Return what was measured after an epoch."""

    def frame(self, probe: str) -> pd.DataFrame:
        """Return the stored table of a probe."""


def curves_of(run: MeasuredRun) -> pd.DataFrame:
    """Accuracy curves that a run has stored: its training metrics or, without them, the probe `accuracy`.

    Args:
        run: The run.

    Returns:
        Columns epoch, pgd (NaN throughout without the metric), and clean, fgsm (accuracy under the run's own attack,
        or under FGSM if that was not measured) and train where stored; one row per finished epoch.
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
    """Diagnose a run from the metrics that it has stored.

    A run of clean training is `never-robust`: it has no training attack to overfit to. Any run is `masked` if the probe
    `masking` was measured on it (`diagnose` does) and found evidence.

    Args:
        run: The run. A run that is being trained is judged on its finished epochs.
        images: Number of images that accuracies are measured on; the run's own number if None.
        classes: Number of classes; the run's own number if None.

    Returns:
        The verdict, on validation images if the run holds some out; `undecided` without a finished epoch, or without
        accuracy under PGD-10.

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
    """When the guard of a run has acted; None if it has not, or there is none."""
    switched = ((epoch, run.metrics(epoch).get("guard_step", 0)) for epoch in run.epochs)
    stopped = run.epochs[-1] + 1 if run.epochs else 1, run.stopped  # in an epoch that is not stored
    epoch, step = next(((epoch, step) for epoch, step in switched if step), stopped)
    if not step:
        return None
    per_epoch = run.info.steps_per_epoch
    return Switch(int(step), step / per_epoch if per_epoch else epoch - 0.5, run.info.settings["guard"])


def images_of(run: MeasuredRun) -> int | None:
    """Number of images that the verdict on a run is reached on; None if unknown."""
    return len(run.probe_set.get(run.chosen_on, ())) or None


def classes_of(run: MeasuredRun) -> int | None:
    """Number of classes of a run; None if its files do not tell (versions 1 and 2 of the format)."""
    return len(run.info.classes) or None


def trained_on_clean_images(run: MeasuredRun, curves: pd.DataFrame) -> bool:
    """Whether a run was trained without an attack: it says so, or accuracy under its own attack is clean accuracy."""
    if run.info.attack is not None:
        return run.info.attack == "standard"
    return (
        "train_attack" in run.metrics(run.epochs[-1])
        and "fgsm" in curves
        and bool((curves["fgsm"] == curves.get("clean")).all())
    )


def _of_clean_training(found: Verdict, curves: pd.DataFrame) -> Verdict:
    """The verdict on a run of clean training, whose accuracy under PGD is nothing but a measurement."""
    known = curves.dropna(subset=["pgd"])
    last = known.iloc[-1]
    text = (
        f"The run was trained on clean images, so there is no training attack to overfit to: accuracy under PGD is "
        f"{100 * last['pgd']:.1f}% at epoch {last['epoch']:.0f}."
    )
    return replace(found, kind="never-robust", episodes=[], recovered=None, reasons=(), notes=(), sentences=(text,))

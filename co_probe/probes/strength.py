"""Strength: effect of a method's perturbations on a fixed reference model."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from co_probe.config.labels import NORMS, AttackLike
from co_probe.errors import CoProbeWarning, UserError
from co_probe.executor import Executor
from co_probe.probes.base import Probe, Row, accuracy_row
from co_probe.probes.named import probe
from co_probe.probes.runner import Progress, live_run
from co_probe.store import RunLike, StoredRun, opened

if TYPE_CHECKING:
    from torch import nn

    from co_probe.probes.images import Checkpoint, ProbeSet
    from co_probe.runs import Run
    from co_probe.runs.checkpoints import Reference


@dataclass(frozen=True, kw_only=True)
class Strength(Probe):
    """Acc(θ_ref, f(θ_A^(i))): accuracy of the reference on perturbations made at epoch i; lower = stronger.

    Quantities: `strength`, and as baselines (epoch 0) the reference's accuracy on `clean` images and under uniform
    `noise` and its `sign-noise`, ±ε (means of 10 draws per image, with the interval of one draw per image).

    Args:
        reference: The fixed model: a `.pt` file of `export`, `RUN@EPOCH`, a module, or a `Reference`
            (`co_probe.runs.references`). May be omitted to select stored rows of the newest reference.
        generator: f: an attack, its name (FGSM at the run's ε in Figure 2a of arXiv 2010.08034), or `method` for the
            run's training attack.
        split: `test` images of the probe set, or `train`.
        epsilon: Norm bound of named attacks and noise, in pixel units; None for the run's.

    Reference:
        arXiv 2010.08034, Figure 2a; `co_probe.indicators.strength` has the formula.
    """

    name: ClassVar[str] = "strength"
    shares: ClassVar[tuple[str, ...]] = ("strength", "clean", "noise", "sign-noise")
    own: ClassVar[tuple[str, ...]] = ("reference", "reference_id")
    figure: ClassVar[str] = "deterioration"
    reference: Any = None
    generator: AttackLike = "fgsm"
    split: str = "test"
    epsilon: float | None = None

    @cached_property
    def loaded(self) -> "Reference":
        """The reference model, on the CPU. Raises UserError if there is none."""
        from co_probe.runs.references import find_reference

        if self.reference is None:
            raise UserError("strength needs a reference: the fixed model that perturbations are transferred to")
        return find_reference(self.reference)

    def columns(self, run: StoredRun) -> dict[str, Any]:
        """Return settings stored as columns, with name and weight fingerprint of the reference."""
        columns = super().columns(run) | {"reference": self.loaded.name}
        return {"reference": columns.pop("reference"), "reference_id": self.loaded.identity, **columns}

    def find(self, frame: pd.DataFrame, run: StoredRun) -> pd.DataFrame:
        """Return the stored rows of a reference, given by its file's name; of the newest one if ambiguous."""
        if not (self.reference is None or isinstance(self.reference, str | Path)):
            return self.select(frame, run)
        columns = super().columns(run)
        del columns["reference"]
        frame = self._matching(frame, columns, run)
        if len(frame) and self.reference is not None:
            frame = frame[frame["reference"] == Path(self.reference).name]
        if not len(frame):
            return frame
        newest = frame.sort_index().iloc[-1]
        same = [frame[column] == newest[column] for column in ("reference", "reference_id")]
        return frame[same[0] & same[1]]

    def unsupported_reason(self, run: StoredRun) -> str | None:
        """Say that the norm is not L∞, or that the reference has other images or classes."""
        if run.norm != "linf":
            return f"{run.name} has perturbations in an {NORMS[run.norm]} ball, and strength compares with noise in L∞"
        return self.loaded.mismatch(run.name, run.info.shape, run.info.classes)

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the strength at one epoch."""
        from co_probe.indicators.strength import strength

        result = strength(
            checkpoint.model,
            self._reference_for(images),
            images.x,
            images.y,
            epsilon=images.epsilon,
            attack=images.perturb(checkpoint, self.generator),
            bounds=images.bounds,
        )
        return [accuracy_row("strength", result.correct)]

    def baselines(self, images: "ProbeSet") -> list[Row]:
        """Return the accuracy of the reference on clean images and under noise."""
        from co_probe.indicators.strength import noise_accuracy

        reference = self._reference_for(images)
        rows = [accuracy_row("clean", images.outcome(reference).correct)]
        for quantity, sign in (("noise", False), ("sign-noise", True)):
            correct = noise_accuracy(
                reference,
                images.x,
                images.y,
                epsilon=images.epsilon,
                sign=sign,
                bounds=images.bounds,
                seed=images.seed,
                checked=True,
            )
            rows.append(accuracy_row(quantity, correct, n=len(images.y)))
        return rows

    def _reference_for(self, images: "ProbeSet") -> "nn.Module":
        return self.loaded.model.to(images.x.device)


def strength(
    runs: RunLike | Iterable[RunLike],
    reference: Any,
    *,
    reference_model: Any = None,
    reference_normalise: Any = None,
    generator: AttackLike = "fgsm",
    split: str = "test",
    epsilon: float | Sequence[float] | None = None,
    check: bool = True,
    device: str = "auto",
    compile: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Measure strength at every epoch of runs where it is not stored yet; lower = stronger.

    Args:
        runs: Paths or runs, one or several.
        reference: The fixed model: a `.pt` file of `export`; `RUN@EPOCH`, the epoch a number, `last` or `best`; a
            module; or a checkpoint file of another program.
        reference_model: The network of a reference that another program trained: a module, a class, a function or a
            name.
        reference_normalise: Constants that this network expects its images normalised by: (mean, std) or the name of a
            data set; None if it takes images as they are.
        generator: Source of perturbations: an attack, its name, or `method` for the run's training attack.
        split: `test` or `train` images of the probe set.
        epsilon: Norm bound or bounds of named attacks and noise, in pixel units; None for the run's.
        check: Refuse a network of another program whose accuracy on clean images is at chance or better with another
            normalisation.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        compile: Use torch.compile.
        progress: Called after each epoch with the run's name, the number of epochs done, and of all epochs.
        executor: Executor of one task per run, with the `submit` of `concurrent.futures`; its workers must see the runs
            under the same paths. Progress is then reported per run. If None, this process measures.

    Returns:
        The tidy table: columns run, method, seed, epoch, probe, reference, reference_id, generator, split, epsilon,
        quantity, value, low, high, n.

    Raises:
        UserError: For unknown names or runs, or a reference that does not fit a run.

    Example:
        >>> co_probe.strength("runs/fgsm", "pgd10_ep30.pt")
        >>> co_probe.strength("runs/fgsm", "runs/pgd@best")
    """
    from co_probe.runs.references import find_reference

    stored = opened(runs)
    first = live_run(stored[0]) if stored else None
    loaded = find_reference(
        reference, model=reference_model, normalise=reference_normalise, like=first.info if first else None
    )
    if check and first and loaded.foreign:
        _check(loaded, first)
    for run in stored:
        if loaded.run_id and loaded.run_id == run.info.run_id:
            warnings.warn(
                f"the reference {loaded.name} is an epoch of {run.name} itself: at that epoch perturbations are not "
                "transferred, and nearby epochs hardly differ from it, so strength says little there",
                CoProbeWarning,
                stacklevel=2,
            )
    settings: dict[str, Any] = {"reference": loaded, "generator": generator, "split": split, "epsilon": epsilon}
    return probe("strength", stored, device=device, compile=compile, progress=progress, executor=executor, **settings)


def _check(reference: "Reference", run: "Run") -> None:
    """Check the accuracy of a reference on clean test images of a run, and warn if it is suspicious.

    Raises:
        UserError: The accuracy is at chance, or clearly better with another normalisation; or the reference does not
            take the images or has other classes.
    """
    from co_probe.training.plausibility import SANITY_IMAGES, logits_on, otherwise_normalised, plausibility

    x, y = run.test_data()
    x, y = x[:SANITY_IMAGES].float(), y[:SANITY_IMAGES]  # drawn at random when the run began
    name = f"the reference {reference.name}"
    logits = logits_on(reference.model, x, name)
    if logits.shape[1] != len(run.info.classes):
        raise UserError(f"{name} has {logits.shape[1]} classes, and {run.name} has {len(run.info.classes)}")
    if run.info.bounds != (0.0, 1.0):
        return
    others = {
        how: logits_on(reference.model, seen, name) for how, seen in otherwise_normalised(x, reference.normalisation)
    }
    judged = plausibility(logits, y, others, f"of {name}")
    if judged.serious:
        raise UserError(f"{judged.remark} If it is right, check=False measures with it as it is")
    if judged.remark:
        warnings.warn(judged.remark, CoProbeWarning, stacklevel=3)

"""Strength: what a method's perturbations do to a fixed reference model."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch

from co_probe.attacks import Noise
from co_probe.config.labels import NORMS
from co_probe.probes.base import Checkpoint, Probe, ProbeSet, Row, accuracy_row
from co_probe.probes.runner import Progress, RunLike, measure_runs
from co_probe.runs import Run
from co_probe.runs.build import pick_device
from co_probe.runs.checkpoints import Reference, load_reference

NOISE_DRAWS = 10


@dataclass(frozen=True, kw_only=True)
class Strength(Probe):
    """Acc(θ_ref, f(θ_A^(i))): accuracy of the reference on perturbations made at epoch i; lower = stronger.

    `generator`: f, an attack by name (FGSM at the run's ε in Figure 2a of arXiv 2010.08034) or the `method`'s own.
    Quantities: `strength`, and as yardsticks (epoch 0) the reference's accuracy on `clean` images and under uniform
    `noise` and its `sign-noise`, ±ε (means of 10 draws an image, with the interval of one draw an image).
    """

    name: ClassVar[str] = "strength"
    reference: Reference
    generator: str = "fgsm"
    split: str = "test"

    def parameters(self) -> dict[str, Any]:
        return {
            "reference": self.reference.name,
            "reference_id": self.reference.identity,
            "generator": self.generator,
            "split": self.split,
        }

    def objection(self, run: Run) -> str | None:
        if run.norm != "linf":
            return f"{run.name} has perturbations in an {NORMS[run.norm]} ball, and strength compares with noise in L∞"
        return self.reference.mismatch(run.name, run.info.shape, run.info.classes)

    def measure(self, checkpoint: Checkpoint, images: ProbeSet) -> list[Row]:
        delta = images.perturb(checkpoint, self.generator)
        return [accuracy_row("strength", images.outcome(self.reference.model, delta).correct)]

    def yardsticks(self, images: ProbeSet) -> list[Row]:
        rows = [accuracy_row("clean", images.outcome(self.reference.model).correct)]
        for quantity, noise in (
            ("noise", Noise(epsilon=images.epsilon, bounds=images.bounds)),
            ("sign-noise", Noise(epsilon=images.epsilon, sign=True, bounds=images.bounds)),
        ):
            rng = images.rng()
            draws = [
                images.outcome(self.reference.model, noise(self.reference.model, images.x, images.y, rng)).correct
                for _ in range(NOISE_DRAWS)
            ]
            rows.append(accuracy_row(quantity, torch.stack(draws), n=len(images.y)))
        return rows


def strength(
    runs: RunLike | Iterable[RunLike],
    reference: str | Path,
    *,
    generator: str = "fgsm",
    split: str = "test",
    device: str = "auto",
    compile: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure strength (`Strength` says what that is) at every epoch of every run that is not stored yet.

    `runs`: paths or `Run`s, one or several; `reference`: a `.pt` file of `co-probe export`. Returns the tidy table.
    Raises UserError for unknown names or runs, or a reference that does not fit a run.

    >>> co_probe.strength("runs/fgsm", "pgd10_ep30.pt")
    """
    probe = Strength(reference=load_reference(reference, pick_device(device)), generator=generator, split=split)
    return measure_runs(probe, runs, device=device, compile=compile, progress=progress)

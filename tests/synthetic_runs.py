"""Runs with curves and step series that a test chooses, of a model that was never trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from co_probe.store import ModelSpec, RunInfo, StoredRun, new_run_id
from co_probe.training.recorder import Checkpoint, Recorder

STEPS = 40


class Nothing(nn.Module):
    """Ten classes, told apart by the mean of the image."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        distance = 10 * x.mean((1, 2, 3))[:, None] - torch.arange(10) - 0.5
        return -self.scale * distance.square()


def synthetic_run(
    folder: Path,
    curves: Mapping[str, Sequence[float]],
    series: Mapping[str, np.ndarray] | None = None,
    *,
    seed: int | None = 0,
    method: str = "fgsm",
    images: int = 200,
) -> StoredRun:
    """Write a run.

    Args:
        folder: Its folder.
        curves: Metrics, {name: a value per epoch}.
        series: Series over all optimizer steps, {name: (epochs × STEPS,)}.
        seed: Its seed.
        method: Its training attack.
        images: Number of test images.
    """
    y = torch.arange(images) % 10
    x = ((y + 0.5) / 10).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    info = RunInfo(
        run_id=new_run_id(),
        method=method,
        seed=seed,
        epsilon=0.1,
        shape=(1, 4, 4),
        classes=tuple("0123456789"),
        data="synthetic",
        model=ModelSpec("synthetic_runs:Nothing", {}, True),
        attack=method,
        planned=len(next(iter(curves.values()))),
        steps_per_epoch=STEPS,
    )
    model = Nothing()
    with Recorder(folder, info=info, test=(x, y), train=(x, y)) as recorder:
        for epoch in range(1, info.planned + 1):
            part = slice((epoch - 1) * STEPS, epoch * STEPS)
            steps = {name: torch.from_numpy(values[part].astype(np.float32)) for name, values in (series or {}).items()}
            metrics = {name: float(values[epoch - 1]) for name, values in curves.items()}
            recorder.epoch(Checkpoint(epoch=epoch, model=model.state_dict(), metrics=metrics, steps=steps))
    return StoredRun(folder)


def collapsing(epochs: int = 20, onset: int = 12) -> dict[str, list[float]]:
    """Curves of a run that overfits catastrophically from `onset` on."""
    healthy, fallen = onset - 1, epochs - onset + 1
    return {
        "clean": [0.95] * epochs,
        "train_attack": [0.7] * healthy + [0.95] * fallen,
        "pgd10": [0.6] * healthy + [0.02] * fallen,
    }


def healthy(epochs: int = 20) -> dict[str, list[float]]:
    """Curves of a run that stays robust."""
    return {"clean": [0.95] * epochs, "train_attack": [0.7] * epochs, "pgd10": [0.6] * epochs}


def step_series(epochs: int = 20, falls_at: float | None = 10.5, seed: int = 0) -> dict[str, np.ndarray]:
    """PertAlign that falls at `falls_at` (in epochs), training accuracy that rises half an epoch later, a flat one."""
    rng, count = np.random.default_rng(seed), epochs * STEPS
    at = np.arange(1, count + 1) / STEPS
    late = np.inf if falls_at is None else falls_at
    noise = rng.normal(0, 0.02, (3, count))
    return {
        "pert_alignment": np.where(at > late, 0.1, 0.8) + noise[0],
        "train_accuracy": np.where(at > late + 0.5, 0.95, 0.7) + noise[1],
        "loss": np.where(at > late + 1, 0.2, 0.9) + noise[2],
        "zero_gradients": np.zeros(count),
        "linearity": np.full(count, np.nan),
    }

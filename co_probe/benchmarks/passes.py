"""Cost of a run's training step in forward passes."""

from dataclasses import replace
from functools import partial

import pandas as pd
import torch

from co_probe.benchmarks.measures import flops
from co_probe.benchmarks.setup import Trainer
from co_probe.config import Config
from co_probe.data.dataset import Dataset
from co_probe.errors import UserError
from co_probe.store import RunInfo, StoredRun

TABLE = "cost"
IMAGES = 16  # per batch, on which the ratio does not depend


def passes_of(run: StoredRun, *, measure: bool = True) -> float | None:
    """Return the cost of a training step in forward passes, by floating-point operations; clean training takes 3.

    A step is taken on random images. For a method whose later steps cost more, the cost of early steps is measured. The
    result is stored with the run.

    Args:
        run: A run trained by co-probe.
        measure: Measure the cost if it is not stored.

    Returns:
        The number of passes; None if it is not stored and not measured.
    """
    stored = run.frame(TABLE)
    if len(stored):
        return float(stored["value"].iloc[-1])
    if not measure or run.info.settings is None or not run.info.classes:
        return None
    try:
        value = _count(run.config, run.info)
    except UserError:  # missing code of a network or method, or images of several sizes
        return None
    row = {**run.labels(0, TABLE), "quantity": "passes", "value": value, "low": value, "high": value, "n": 1}
    run.add_rows(TABLE, pd.DataFrame([row]))
    return value


def _count(config: Config, info: RunInfo) -> float:
    device = torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.rand(4 * IMAGES, *info.shape).clamp(*info.bounds)
        labels = torch.randint(len(info.classes), (len(images),))
        mean, std = info.mean or (0.0,) * info.shape[0], info.std or (1.0,) * info.shape[0]
        data = Dataset(images, labels, images, labels, info.classes, mean, std, bounds=info.bounds)
        trainer = Trainer(replace(config, batch_size=IMAGES, precision="float32"), data, device)
        trainer.step()  # initialisation in the first step
        return flops(trainer.step) / flops(partial(trainer.model, trainer.batch.x))

"""Train on digits with the indicators of every step, and accuracy under PGD-10 every 20 steps: data for `alarm.py`.

    python analyses/alarm_traces.py OUT METHOD SEED [KEY=VALUE ...]     epsilon=0.05, epochs=15, ... over the preset

OUT gets METHOD-SEED-....csv.gz: a row per optimizer step, with the series of `run.step_series` and `pgd`, measured in
eval mode on 64 test images, and empty between.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor

from co_probe.attacks import PGD, Model
from co_probe.config import Config, merge, parse_assignment
from co_probe.config.presets import configure
from co_probe.data.dataset import to_unit
from co_probe.inference.evaluation import outcome, perturb
from co_probe.numerics.rng import make_rng
from co_probe.runs.build import make_data
from co_probe.store import StoredRun
from co_probe.training import loop

EVERY = 20


def trace(config: Config, images: int = 64) -> pd.DataFrame:
    """Train as `co-probe run` does, and return a row per step."""
    data, train_step, models = make_data(config), loop.train_step, list[Model]()
    x, y = to_unit(data.test_x[:images]), data.test_y[:images]
    attack = PGD(epsilon=config.epsilon, steps=10, bounds=data.bounds)
    accuracies: dict[int, float] = {}  # by the number of steps

    def counted(model: Model, *others: Any) -> tuple[Tensor, Tensor]:
        models.append(model)
        return train_step(model, *others)

    def measure(epoch: int, done: int, total: int) -> None:
        if len(models) % EVERY == 0:
            delta = perturb(models[-1], attack, x, y, make_rng(x.device, config.seed, "probe"))
            accuracies[len(models)] = outcome(models[-1], x, y, delta, data.bounds).accuracy

    with TemporaryDirectory() as folder, patch.object(loop, "train_step", counted):
        for _ in loop.epochs(config, Path(folder) / "run", device="cpu", progress=measure):
            pass
        run = StoredRun(Path(folder) / "run")
        parts = [pd.DataFrame(run.step_series(epoch)).assign(epoch=epoch) for epoch in run.epochs]
    found = pd.concat(parts, ignore_index=True)
    found.insert(0, "step", range(1, len(found) + 1))
    return found.assign(pgd=found["step"].map(accuracies))


if __name__ == "__main__":
    out, method_name, given_seed, *assignments = sys.argv[1:]
    settings: dict = {"seed": int(given_seed)}
    for text in assignments:
        settings = merge(settings, parse_assignment(text))
    torch.set_num_threads(1)
    Path(out).mkdir(parents=True, exist_ok=True)
    name = "-".join([method_name, given_seed, *(text.replace("/", "_") for text in assignments)])
    trace(configure("digits", method_name, settings)).to_csv(
        Path(out) / f"{name}.csv.gz", index=False, float_format="%.4g"
    )

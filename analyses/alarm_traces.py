"""Train on digits with the indicators of every step, and accuracy under PGD-10 every 20 steps: data for `alarm.py`.

    python analyses/alarm_traces.py OUT METHOD SEED [KEY=VALUE ...]     epsilon=0.05, epochs=15, ... over the preset

OUT gets METHOD-SEED-....csv.gz: a row per optimizer step, with the series of `run.step_series` and `pgd`, measured in
eval mode on 64 test images, and empty between.
"""

import sys
from pathlib import Path

import pandas as pd
import torch

from co_probe.attacks import PGD
from co_probe.config import Config, merge, parse_assignment
from co_probe.config.presets import configure
from co_probe.data.dataset import to_unit
from co_probe.indicators.steps import StepSeries
from co_probe.inference.evaluation import outcome, perturb
from co_probe.methods.base import Batch
from co_probe.numerics.rng import derive_seed, make_rng
from co_probe.runs.build import kept_epochs, make_data, make_method, make_model
from co_probe.training.loop import train_step
from co_probe.training.resolution import ResolutionStages
from co_probe.training.schedules import SCHEDULES, warmup

EVERY = 20


def trace(config: Config, images: int = 64) -> pd.DataFrame:
    """Train as `co-probe run` does, with the same random numbers, and return a row per step."""
    device, seed = torch.device("cpu"), config.seed
    data, epochs = make_data(config), kept_epochs(config)
    torch.manual_seed(derive_seed(seed, "initial weights"))
    model, method = make_model(config, data).train(), make_method(config, data.bounds)
    stages = ResolutionStages(config, data, epochs, method.replays, device)
    stages.setup(method, model)
    chosen = config.optimizer
    optimizer = torch.optim.SGD(model.parameters(), momentum=chosen.momentum, weight_decay=chosen.weight_decay)
    schedule = SCHEDULES.make(config.schedule.name, **config.schedule.settings)
    x_test, y_test = to_unit(data.test_x[:images]), data.test_y[:images]
    attack = PGD(epsilon=config.epsilon, steps=10, bounds=data.bounds)
    series, rows, steps = StepSeries(model), [], stages.stage(1).steps
    for epoch in range(1, epochs + 1):
        rng = make_rng(device, seed, "epoch", epoch)
        torch.manual_seed(derive_seed(seed, "global", epoch))
        method.start_epoch(epoch, rng)
        for x, y, view in stages.batches(epoch, rng):
            for _ in range(method.replays):
                step = len(rows)
                share = schedule(step / (steps * epochs))
                epsilon = config.epsilon * warmup(step + 1, round(config.epsilon_warmup * steps))
                with series.step(y):
                    batch = Batch(x, y, view, epsilon, share, rng)
                    loss, right = train_step(model, method, optimizer, batch, chosen.learning_rate)
                row = {"step": step + 1, "epoch": epoch, "loss": loss.item(), "train_accuracy": right.item() / len(x)}
                if (step + 1) % EVERY == 0:
                    delta = perturb(model, attack.generate, x_test, y_test, make_rng(device, seed, "probe"))
                    row["pgd"] = outcome(model, x_test, y_test, delta, data.bounds).accuracy
                rows.append(row)
    return pd.DataFrame(rows).join(pd.DataFrame({name: values.numpy() for name, values in series.take().items()}))


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

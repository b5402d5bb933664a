"""Cost of training steps of each method, of recording step indicators, and of the monitor."""

from functools import partial
from typing import Any

import numpy as np

from co_probe.benchmarks.measures import Action, flops, rows
from co_probe.benchmarks.setup import CLEAN, Setup, Trainer
from co_probe.indicators.steps import StepSeries
from co_probe.methods import METHODS
from co_probe.monitoring.monitor import Monitor

COMPILED, RECORDED, MONITORED = ", compiled", ", indicators", ", monitor"  # added to names of methods
BLOCK = 20  # steps per measurement, since indicators and alarm process several steps at once


def steps(setup: Setup) -> list[dict[str, Any]]:
    """Measure a training step of each method and of clean training; with `compile` also the compiled step.

    Quantities: `seconds`; `images_per_second`; `ratio` to clean training; `passes`, floating-point operations in units
    of a forward pass (clean training: 3).
    """
    fitting = [name for name in METHODS if setup.config().norm in METHODS.load(name).norms]
    names = [CLEAN, *(name for name in setup.methods(fitting) if name != CLEAN)]
    trainers: dict[str, Trainer] = {}
    for name in names:
        trainers[name] = setup.trainer(name)
        if setup.compile:
            trainers[name + COMPILED] = setup.trainer(name, compiled=True)
    work = {name: flops(trainers[name].step) for name in names}
    forward = flops(partial(trainers[CLEAN].model, trainers[CLEAN].batch.x))
    times = setup.times("steps", {name: trainer.step for name, trainer in trainers.items()})
    result = []
    for subject, seconds in times.items():
        result += rows(
            subject,
            seconds=seconds,
            images_per_second=len(trainers[subject].batch.y) / seconds,
            ratio=seconds / times[CLEAN],
            passes=work[subject.removesuffix(COMPILED)] / forward,
        )
    return result


def indicators(setup: Setup) -> list[dict[str, Any]]:
    """Measure a training step of each method (default: FGSM) alone, with step indicators, and with a monitor.

    The monitor records numbers without probe images, including the alarm and without epochs. Quantities: `seconds` per
    step, of processor time on a CPU; `ratio` to the step alone.
    """
    times: dict[str, np.ndarray] = {}
    for name in setup.methods(["fgsm"]):
        alone, recorded, monitored = (setup.trainer(name) for _ in range(3))
        monitor = Monitor(monitored.model, monitored.optimizer, epsilon=monitored.config.epsilon)
        actions: dict[str, Action] = {
            name: alone.step,
            name + RECORDED: _Recorded(recorded),
            name + MONITORED: monitored.step,
        }
        times |= setup.step_times(f"indicators, {name}", actions, BLOCK)
        monitor.close()
    result = []
    for subject, seconds in times.items():
        ratio = seconds / times[subject.removesuffix(RECORDED).removesuffix(MONITORED)]
        result += rows(subject, seconds=seconds / BLOCK, ratio=ratio)
    return result


class _Recorded:
    """A training step as in `co_probe.training.loop`; recorded values are fetched once per block."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.series, self.count = trainer, StepSeries(trainer.model), 0

    def __call__(self) -> None:
        with self.series.step(self.trainer.batch.y):
            self.trainer.step()
        self.count += 1
        if self.count % BLOCK == 0:
            self.series.take()

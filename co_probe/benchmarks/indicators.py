"""What it costs a training step to record its indicators."""

from functools import partial
from typing import Any

from co_probe.benchmarks.measures import Action, rows
from co_probe.benchmarks.setup import Setup, Trainer
from co_probe.indicators.steps import StepSeries

BLOCK = 20  # steps that are measured together, because indicators are computed for several steps at once
RECORDED = ", indicators"  # added to names of methods


def indicators(setup: Setup) -> list[dict[str, Any]]:
    """Measure a training step of each method (default: FGSM) with its indicators recorded, and without.

    Quantities: `seconds` per step; `ratio`, to the step without.
    """
    names = setup.methods(["fgsm"])
    actions: dict[str, Action] = {}
    for name in names:
        plain, watched = Trainer(setup, name), Trainer(setup, name)
        actions[name] = partial(_block, plain, StepSeries(None))
        actions[name + RECORDED] = partial(_block, watched, StepSeries(watched.model))
    times = {name: seconds / BLOCK for name, seconds in setup.times("indicators", actions).items()}
    result = []
    for name, seconds in times.items():
        result += rows(name, seconds=seconds, ratio=seconds / times[name.removesuffix(RECORDED)])
    return result


def _block(trainer: Trainer, series: StepSeries) -> None:
    for _ in range(BLOCK):
        with series.step(trainer.batch.y):
            trainer.step()
    series.take()

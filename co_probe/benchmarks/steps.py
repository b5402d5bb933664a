"""The cost of training steps: of each method, and of recording the indicators of a step."""

from functools import partial
from typing import Any

from co_probe.benchmarks.measures import Action, flops, rows
from co_probe.benchmarks.setup import CLEAN, Setup, Trainer
from co_probe.indicators.steps import StepSeries
from co_probe.methods import METHODS

COMPILED, RECORDED = ", compiled", ", indicators"  # added to names of methods
BLOCK = 20  # steps that are measured together, because indicators are computed for several steps at once


def steps(setup: Setup) -> list[dict[str, Any]]:
    """Measure a training step of each method and of clean training; with `compile` also the compiled step.

    Quantities: `seconds`; `images_per_second`; `ratio`, to clean training; `passes`, the floating-point operations in
    forward passes (clean training: 3).
    """
    fitting = [name for name in METHODS if setup.config().norm in METHODS.load(name).norms]
    names = [CLEAN, *(name for name in setup.methods(fitting) if name != CLEAN)]
    trainers: dict[str, Trainer] = {}
    for name in names:
        trainers[name] = Trainer(setup, name)
        if setup.compile:
            trainers[name + COMPILED] = Trainer(setup, name, compiled=True)
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
    """Measure a training step of each method (default: FGSM) with its indicators recorded, and without.

    Quantities: `seconds` per step; `ratio`, to the step without.
    """
    actions: dict[str, Action] = {}
    for name in setup.methods(["fgsm"]):
        plain, watched = Trainer(setup, name), Trainer(setup, name)
        actions[name] = partial(_block, plain, StepSeries(None))
        actions[name + RECORDED] = partial(_block, watched, StepSeries(watched.model))
    times = {name: seconds / BLOCK for name, seconds in setup.times("indicators", actions).items()}
    ratios = {name: seconds / times[name.removesuffix(RECORDED)] for name, seconds in times.items()}
    return [row for name in times for row in rows(name, seconds=times[name], ratio=ratios[name])]


def _block(trainer: Trainer, series: StepSeries) -> None:
    for _ in range(BLOCK):
        with series.step(trainer.batch.y):
            trainer.step()
    series.take()

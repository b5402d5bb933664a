"""The cost of training steps: of each method's, and of weight gradients that a perturbation does not need."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from co_probe.benchmarks.measures import Action, flops, rows
from co_probe.benchmarks.setup import CLEAN, Setup, Trainer
from co_probe.errors import UserError
from co_probe.methods import METHODS

MATRICES, COMPILED, WEIGHTS = "matrix product", ", compiled", ", weights too"  # added to names of methods


def steps(setup: Setup) -> list[dict[str, Any]]:
    """Measure a training step of each method and of clean training; with `compile` also the compiled step.

    Quantities: `seconds`; `images_per_second`; `ratio`, to clean training; `passes`, the floating-point operations in
    forward passes (clean training: 3); `gflops_per_second`, of the step and, as a subject of its own, of a product of
    large matrices of the same type; `utilisation`, the ratio of these two; and on a GPU `memory_mb`, the peak memory of
    tensors: weights, gradients, momenta, training images, state of the method, and what the step allocates.
    """
    fitting = [name for name in METHODS if setup.config().norm in METHODS.load(name).norms]
    names = [CLEAN, *(name for name in setup.methods(fitting) if name != CLEAN)]
    makers = {name: partial(Trainer, setup, name) for name in names}
    work = {name: flops(make().step) for name, make in makers.items()}
    if setup.compile:
        makers |= {name + COMPILED: partial(Trainer, setup, name, compiled=True) for name in names}
    trainers: dict[str, Trainer] = {}
    memory: dict[str, dict[str, float]] = {}
    for name, make in sorted(makers.items(), key=lambda item: names.index(item[0].removesuffix(COMPILED))):
        trainers[name], memory[name] = _with_memory(make, setup.device)
    side = 8192 if setup.device.type == "cuda" else 1024
    matrix = torch.randn(side, side, device=setup.device).to(getattr(torch, setup.precision))
    actions: dict[str, Action] = {MATRICES: lambda: matrix @ matrix}
    times = setup.times("steps", actions | {name: trainer.step for name, trainer in trainers.items()})

    rate, forward = 2 * side**3 / times[MATRICES], flops(trainers[CLEAN].forward)
    result = rows(MATRICES, gflops_per_second=rate / 1e9)
    for name, trainer in trainers.items():
        seconds, operations = times[name], work[name.removesuffix(COMPILED)]
        result += rows(
            name,
            seconds=seconds,
            images_per_second=len(trainer.batch.y) / seconds,
            ratio=seconds / times[CLEAN],
            passes=operations / forward,
            gflops_per_second=operations / seconds / 1e9,
            utilisation=operations / seconds / rate,
            **memory[name],
        )
    return result


def _with_memory(make: Callable[[], Trainer], device: torch.device) -> tuple[Trainer, dict[str, float]]:
    """Make a trainer; on a GPU also return the peak memory of its second step, images included."""
    if device.type != "cuda":
        return make(), {}
    before = torch.cuda.memory_allocated(device)
    trainer = make()
    trainer.step()
    torch.cuda.reset_peak_memory_stats(device)
    trainer.step()
    peak = torch.cuda.max_memory_allocated(device) - before + trainer.image_bytes
    return trainer, {"memory_mb": peak / 1e6}


def gradients(setup: Setup) -> list[dict[str, Any]]:
    """Measure a step of each method (default: APART) against the same step with superfluous weight gradients.

    Most published code makes perturbations by `loss.backward()`, which computes gradients of the weights besides the
    input gradient that is used. Methods without a perturbation pass are left out.
    Quantities: `seconds`; `passes`, as in `steps`; `ratio`, to the method's own step.

    Raises:
        UserError: If no method has a perturbation pass.
    """
    names = setup.methods(["apart"])
    work: dict[str, int] = {}
    actions: dict[str, Action] = {}
    for name in names:
        trainer = Trainer(setup, name)
        pair: dict[str, Action] = {name: trainer.step, name + WEIGHTS: partial(_step_with_weight_gradients, trainer)}
        work |= {key: flops(act) for key, act in pair.items()}
        if work[name] != work[name + WEIGHTS]:
            actions |= pair
    if not actions:
        raise UserError(f"no perturbation pass in {', '.join(names)}: leave the part gradients out")
    times, forward = setup.times("gradients", actions), flops(trainer.forward)
    result = []
    for name, seconds in times.items():
        ratio = seconds / times[name.removesuffix(WEIGHTS)]
        result += rows(name, seconds=seconds, passes=work[name] / forward, ratio=ratio)
    return result


def _step_with_weight_gradients(trainer: Trainer) -> None:
    with weight_gradients_too(trainer.model):
        trainer.step()


@contextmanager
def weight_gradients_too(model: nn.Module) -> Iterator[None]:
    """Within the context, `torch.autograd.grad` also computes the gradients of the model's weights and drops them."""
    compute, weights = torch.autograd.grad, [p for p in model.parameters() if p.requires_grad]

    def grad(outputs: Any, inputs: Any, *args: Any, **settings: Any) -> Sequence[Tensor]:
        wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        settings["allow_unused"] = True  # a loss need not depend on every weight
        return compute(outputs, [*wanted, *weights], *args, **settings)[: len(wanted)]

    with mock.patch.object(torch.autograd, "grad", grad):
        yield

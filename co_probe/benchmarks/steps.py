"""What a training step costs: each method's, and what asking for input gradients only saves."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from co_probe.benchmarks.machine import matrix_product
from co_probe.benchmarks.memory import peak_bytes
from co_probe.benchmarks.subject import CLEAN, Subject, Trainee
from co_probe.benchmarks.turns import Row, exact, spread, take_turns
from co_probe.benchmarks.work import work
from co_probe.errors import UserError
from co_probe.methods import METHODS

MATRICES, ALONE, COMPILED = "matrix product", " convolutions", ", compiled"  # no method has a blank in its name


def steps(subject: Subject) -> list[Row]:
    """A training step of each method, clean training always among them.

    `seconds`; `images_per_second`; `ratio`: its time over clean training's; `passes`: its arithmetic in forward passes
    (clean training: 3); `gflops_per_second`: in convolutions and matrix products; `utilisation`: the same over the
    machine's rate in a large matrix product of the same type (whose `gflops_per_second` is a row too);
    `convolution_share`: how long the step's convolutions take alone, over how long the step takes, which is the step's
    throughput over theirs; `memory_mb`: the most that tensors take during the step, with weights, gradients, momenta,
    training images and what the method keeps for each of them (`peak_bytes`).
    If the subject is to `compile`, besides: the step as a compiled run takes it, `NAME, compiled`, with the same work.
    """
    fitting = [name for name in METHODS if subject.config().norm in METHODS.load(name).norms]
    names = [CLEAN, *(name for name in subject.methods(fitting) if name != CLEAN)]
    works = {name: work(Trainee(subject, name).step) for name in names}
    makers = {name: partial(Trainee, subject, name) for name in names}
    if subject.compile:
        makers |= {name + COMPILED: partial(Trainee, subject, name, compiled=True) for name in names}
        names = [name for plain in names for name in (plain, plain + COMPILED)]
    memory = {name: peak_bytes(partial(_stepping, makers[name]), subject.device) for name in names}
    trainees = {name: makers[name]() for name in names}
    multiply, product_flops = matrix_product(works[CLEAN].dtype, subject.device)
    actions: dict[str, Any] = {MATRICES: multiply}
    for name in names:
        actions[name] = trainees[name].step
    for name, done in works.items():
        actions[name + ALONE] = done.alone()
    times = take_turns(actions, subject.repeats, subject.device, subject.report("steps"))

    rate = product_flops / times[MATRICES]
    rows = [spread(MATRICES, "gflops_per_second", rate / 1e9)]
    for name in names:
        plain = name.removesuffix(COMPILED)
        seconds, flops = times[name], works[plain].flops
        rows += [
            spread(name, "seconds", seconds),
            spread(name, "images_per_second", len(trainees[name].batch.y) / seconds),
            spread(name, "ratio", seconds / times[CLEAN]),
            *exact(name, passes=flops / subject.clean.flops),
            spread(name, "gflops_per_second", flops / seconds / 1e9),
            spread(name, "utilisation", flops / seconds / rate),
            spread(name, "convolution_share", times[plain + ALONE] / seconds),
            *exact(name, memory_mb=(memory[name] + subject.image_bytes) / 1e6),
        ]
    return rows


def gradients(subject: Subject) -> list[Row]:
    """A step of each method (APART, if none is asked for) against one that back-propagates into the weights throughout.

    That is how most published code makes its perturbations: `loss.backward()`, of which only the input's gradient is
    used. Everything else of the two steps is the same. `seconds`, `passes`, and `ratio`: over the method's own step.
    Methods without such a pass are passed over. Raises UserError if none has one.
    """
    rows, names = [], subject.methods(["apart"])
    trainees = {name: Trainee(subject, name) for name in names}
    actions: dict[str, Any] = {}
    for name, trainee in trainees.items():
        actions |= {name: trainee.step, f"{name}, weights too": partial(_weights_too, trainee)}
    works = {name: work(act) for name, act in actions.items()}
    for name in names:
        if works[name].flops == works[f"{name}, weights too"].flops:  # it has no perturbation pass
            del actions[name], actions[f"{name}, weights too"]
    if not actions:
        raise UserError(f"no perturbation pass in {', '.join(names)}: leave the part gradients out")
    times = take_turns(actions, subject.repeats, subject.device, subject.report("gradients"))
    for name in actions:
        own = name.partition(",")[0]
        rows += [
            spread(name, "seconds", times[name]),
            *exact(name, passes=works[name].flops / subject.clean.flops),
            spread(name, "ratio", times[name] / times[own]),
        ]
    return rows


def _stepping(make: Callable[[], Trainee]) -> Callable[[], None]:
    return make().step


def _weights_too(trainee: Trainee) -> None:
    with into_weights(trainee.model):
        trainee.step()


@contextmanager
def into_weights(model: nn.Module) -> Iterator[None]:
    """Inside, whoever asks `torch.autograd.grad` for gradients has those of the model's weights computed as well."""
    ask, weights = torch.autograd.grad, [p for p in model.parameters() if p.requires_grad]

    def ask_for_all(outputs: Any, inputs: Any, *args: Any, **settings: Any) -> Sequence[Tensor]:
        wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        settings["allow_unused"] = True  # a loss need not depend on every weight
        return ask(outputs, [*wanted, *weights], *args, **settings)[: len(wanted)]

    torch.autograd.grad = ask_for_all  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autograd.grad = ask

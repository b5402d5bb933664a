"""Cost of PGD, compared with other packages with the same model, images, start and steps."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.attacks import PGD
from co_probe.attacks.base import project
from co_probe.benchmarks.measures import Action, rows
from co_probe.benchmarks.setup import CLEAN, Setup

OURS, COMPILED, PLAIN = "co-probe", "co-probe, compiled", "loss.backward()"


def attacks(setup: Setup) -> list[dict[str, Any]]:
    """Measure PGD-10 on a training batch, in eval mode; with `compile` also on a compiled model.

    Subjects: the attacks of co-probe and, if installed, of torchattacks and foolbox, and a loop that calls
    `loss.backward()`, as in most published code. Quantities: `seconds`; `ratio` to co-probe.
    """
    trainer = setup.trainer(CLEAN)
    model, x, y, epsilon = trainer.model.eval(), trainer.batch.x, trainer.batch.y, trainer.config.epsilon
    makers = adversaries(model, epsilon, 10, setup.device)
    actions: dict[str, Action] = {name: partial(make, x, y) for name, make in makers.items()}
    if setup.compile:
        compiled = setup.trainer(CLEAN, compiled=True).trained.for_perturbation("eval")
        actions[COMPILED] = partial(PGD(epsilon=epsilon), compiled, x, y)
    times = setup.times("attacks", actions)
    return [row for name in times for row in rows(name, seconds=times[name], ratio=times[name] / times[OURS])]


def adversaries(
    model: nn.Module, epsilon: float, steps: int, device: torch.device
) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Make functions from images and classes to adversarial images: PGD of co-probe, a loop, and other packages."""
    ours, step_size = PGD(epsilon=epsilon, steps=steps), epsilon / 4

    def plain(x: Tensor, y: Tensor) -> Tensor:
        delta = torch.empty_like(x).uniform_(-epsilon, epsilon)
        for _ in range(steps):
            point = (x + delta).clamp(0, 1).requires_grad_()
            model.zero_grad()
            F.cross_entropy(model(point), y).backward()
            assert point.grad is not None
            delta = project(point.detach() - x + step_size * point.grad.sign(), x, epsilon, (0.0, 1.0))
        return x + delta

    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {OURS: lambda x, y: x + ours(model, x, y), PLAIN: plain}
    if find_spec("torchattacks"):
        import torchattacks

        found["torchattacks"] = torchattacks.PGD(model, eps=epsilon, alpha=step_size, steps=steps)
    if find_spec("foolbox"):
        import foolbox

        attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps)
        wrapped = foolbox.models.pytorch.PyTorchModel(model, bounds=(0, 1), device=device)
        found["foolbox"] = lambda x, y: attack.run(wrapped, x, y, epsilon=epsilon)
    return found

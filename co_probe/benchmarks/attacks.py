"""The cost of PGD, beside that of other packages with the same model, images, start and steps."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.attacks import PGD
from co_probe.attacks.base import is_correct, project
from co_probe.benchmarks.measures import Action, rows
from co_probe.benchmarks.setup import CLEAN, Setup, Trainer

OURS, COMPILED, PLAIN = "co-probe", "co-probe, compiled", "loss.backward()"
TRAINING_STEPS = 30  # before accuracy is measured, all on the same images

Adversary = Callable[[Tensor, Tensor], Tensor]  # images and classes -> adversarial images


def attacks(setup: Setup) -> list[dict[str, Any]]:
    """Measure PGD-10 on a training batch, in eval mode; with `compile` also on a compiled model.

    Subjects: co-probe's attack; those of torchattacks and foolbox, if they are installed; and a loop that calls
    `loss.backward()`, as most published code does. Quantities: `seconds`; `ratio`, to co-probe's.
    """
    trainer = Trainer(setup, CLEAN)
    model, x, y, epsilon = trainer.model.eval(), trainer.batch.x, trainer.batch.y, trainer.config.epsilon
    makers = adversaries(model, epsilon, 10, setup.device)
    actions: dict[str, Action] = {name: partial(make, x, y) for name, make in makers.items()}
    if setup.compile:
        compiled = Trainer(setup, CLEAN, compiled=True).trained.for_perturbation("eval")
        actions[COMPILED] = partial(PGD(epsilon=epsilon), compiled, x, y)
    times = setup.times("attacks", actions)
    return [row for name in times for row in rows(name, seconds=times[name], ratio=times[name] / times[OURS])]


def accuracy(setup: Setup) -> list[dict[str, Any]]:
    """Measure accuracy under PGD-20 on a training batch, in eval mode, after a few steps of clean training on it.

    co-probe stops attacking an image once it is misclassified; the others attack all images to the end. How much that
    saves depends on the number of images that survive, so ε is chosen such that about half of them do.
    Quantities: `seconds`; `ratio`, to co-probe's; `accuracy`, over all steps of the attack for co-probe and at the last
    step for the others, which can only be higher; and of co-probe alone `epsilon`, and `clean`, the accuracy without
    attack.
    """
    trainer = Trainer(setup, CLEAN, learning_rate=setup.config().optimizer.learning_rate)
    for _ in range(TRAINING_STEPS):
        trainer.step()
    model, x, y = trainer.model.eval(), trainer.batch.x, trainer.batch.y
    epsilon = half_robust_epsilon(model, x, y, trainer.config.epsilon)

    def correct_at(make: Adversary) -> Tensor:
        return is_correct(model, make(x, y), y)

    makers = adversaries(model, epsilon, 20, setup.device)
    actions: dict[str, Callable[[], Tensor]] = {name: partial(correct_at, make) for name, make in makers.items()}
    actions[OURS] = partial(PGD(epsilon=epsilon, steps=20).robust_mask, model, x, y)
    result = rows(OURS, epsilon=epsilon, clean=is_correct(model, x, y).float().mean().item())
    times = setup.times("accuracy", actions)
    for name, act in actions.items():
        torch.manual_seed(0)  # the same random start for all but foolbox
        result += rows(name, seconds=times[name], ratio=times[name] / times[OURS], accuracy=act().float().mean().item())
    return result


def half_robust_epsilon(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> float:
    """Find the ε, between a 16th of `epsilon` and 16 times `epsilon`, at which half of the images survive PGD-20."""
    low, high = epsilon / 16, epsilon * 16
    for _ in range(10):
        epsilon = (low * high) ** 0.5
        robust = PGD(epsilon=epsilon, steps=20).robust_mask(model, x, y)
        low, high = (epsilon, high) if robust.float().mean() > 0.5 else (low, epsilon)
    return epsilon


def adversaries(model: nn.Module, epsilon: float, steps: int, device: torch.device) -> dict[str, Adversary]:
    """PGD with steps of ε/4 from a uniform start, by co-probe, a plain loop, and each package that is installed."""
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

    found: dict[str, Adversary] = {OURS: lambda x, y: x + ours(model, x, y), PLAIN: plain}
    if find_spec("torchattacks"):
        import torchattacks

        found["torchattacks"] = torchattacks.PGD(model, eps=epsilon, alpha=step_size, steps=steps)
    if find_spec("foolbox"):
        import foolbox

        attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=device)
        found["foolbox"] = lambda x, y: attack.run(wrapped, x, y, epsilon=epsilon)
    return found

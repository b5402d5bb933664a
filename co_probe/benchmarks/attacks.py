"""Our PGD against that of other packages, on the same model, images, starts and steps."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.attacks import PGD
from co_probe.attacks.base import is_correct, project
from co_probe.benchmarks.subject import Subject, Trainee
from co_probe.benchmarks.turns import Row, exact, spread, take_turns
from co_probe.data.dataset import to_unit
from co_probe.errors import UserError
from co_probe.inference.evaluation import evaluating
from co_probe.inference.execution import compiling, input_gradients_only
from co_probe.probes.evaluation import BATCH

OURS, FAST, PLAIN, WHOLE = "co-probe", "co-probe, compiled", "loss.backward()", "co-probe, whole batch"
FULL, SEARCH = 10, 20  # steps of the attack that runs to its end, and of the one that counts what it breaks
TRAINING = 600  # FGSM steps at most before accuracy is measured
LEARNED = 0.8  # of the test images are right without attack: then training stops
NEAR = 0.03  # to a half: what passes for about half of the images, or an image more or less if they are few

Adversary = Callable[[Tensor, Tensor], Tensor]  # images and classes -> adversarial images


def attacks(subject: Subject) -> list[Row]:
    """A PGD-10 attack that runs to its end on a batch, in eval mode.

    Ours; `torchattacks.PGD` and foolbox's `LinfPGD`, where they are installed; and a loop that calls `loss.backward()`,
    as most published code has it. If the subject is to `compile`, ours on a compiled network too, as probes run it.
    `seconds`, and `ratio`: over ours.
    """
    batch, epsilon = Trainee(subject, "standard").batch, subject.config().epsilon
    model = subject.model().eval()
    x, y = batch.x, batch.y
    actions: dict[str, Any] = {
        name: lambda make=make: make(x, y) for name, make in adversaries(model, epsilon, FULL, subject.device).items()
    }
    if subject.compile:
        actions[FAST] = partial(_compiled, subject.model(compiled=True).eval(), PGD(epsilon=epsilon, steps=FULL), x, y)
    times = take_turns(actions, subject.repeats, subject.device, subject.report("attacks"))
    return [
        row
        for name in actions
        for row in (spread(name, "seconds", times[name]), spread(name, "ratio", times[name] / times[OURS]))
    ]


def _compiled(model: nn.Module, attack: PGD, x: Tensor, y: Tensor) -> Tensor:
    with compiling(model), input_gradients_only(model):
        return attack(model, x, y)


def accuracy(subject: Subject) -> list[Row]:
    """Accuracy under PGD-20 on images of which about half survive: ours lets broken ones leave the batch.

    There are as many images as `eval` attacks at a time, or as four training batches have if these are fewer.
    Where they are real, the model is trained by FGSM until it has 80% of them right; on random ones classes are those
    that the untrained model gives. Then an ε is looked for at which about half of the images survive: the row
    `epsilon`; `clean` is accuracy without attack.
    `seconds` and `ratio` (over ours); `accuracy`: as each counts, which is at the last step only for all but ours;
    `accuracy_on_the_way`: counting every point that it came by, the image itself first, as ours does. All but foolbox
    draw the same starts from the same seed.
    """
    model, x, y = _half_robust(subject)
    epsilon = balance(model, x, y, subject.config().epsilon)
    attack = PGD(epsilon=epsilon, steps=SEARCH)
    makers = {WHOLE: lambda x, y: x + attack(model, x, y)} | {
        name: make for name, make in adversaries(model, epsilon, SEARCH, subject.device).items() if name != OURS
    }
    actions: dict[str, Any] = {OURS: lambda: attack.robust_mask(model, x, y)}
    for name, make in makers.items():
        actions[name] = lambda make=make: is_correct(model, make(x, y), y)
    rows = exact(OURS, epsilon=epsilon, clean=_mean(is_correct(model, x, y)))
    for name, act in actions.items():
        torch.manual_seed(0)
        with Witness(model, y) as witness:
            last = act()
        on_the_way = last if name == OURS else witness.stands & last & is_correct(model, x, y)
        rows += exact(name, accuracy=_mean(last), accuracy_on_the_way=_mean(on_the_way))
    times = take_turns(actions, subject.repeats, subject.device, subject.report("accuracy"))
    for name in actions:
        rows += [spread(name, "seconds", times[name]), spread(name, "ratio", times[name] / times[OURS])]
    return rows


def adversaries(model: nn.Module, epsilon: float, steps: int, device: torch.device) -> dict[str, Adversary]:
    """PGD with steps of ε/4 from a uniform start by each package that is there; they leave no gradients behind."""
    step, ours = epsilon / 4, PGD(epsilon=epsilon, steps=steps)

    def plain(x: Tensor, y: Tensor) -> Tensor:
        delta = torch.empty_like(x).uniform_(-epsilon, epsilon)
        for _ in range(steps):
            point = (x + delta).clamp(0, 1).requires_grad_()
            F.cross_entropy(model(point), y).backward()
            assert point.grad is not None
            delta = project(point.detach() - x + step * point.grad.sign(), x, epsilon, (0.0, 1.0))
        model.zero_grad()
        return x + delta

    found: dict[str, Adversary] = {OURS: lambda x, y: x + ours(model, x, y), PLAIN: plain}
    if torchattacks := _package("torchattacks"):
        theirs = torchattacks.PGD(model, eps=epsilon, alpha=step, steps=steps, random_start=True)
        found["torchattacks"] = theirs
    if foolbox := _package("foolbox"):
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=True)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=device)

        def by_foolbox(x: Tensor, y: Tensor) -> Tensor:
            made = attack.run(wrapped, x, y, epsilon=epsilon)
            model.zero_grad()
            return made

        found["foolbox"] = by_foolbox
    return found


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class Witness:
    """While inside, notes which images the model gave another class than theirs whenever it saw all of them."""

    def __init__(self, model: nn.Module, y: Tensor):
        self.model, self.y, self.stands = model, y, torch.ones_like(y, dtype=torch.bool)

    def __enter__(self) -> "Witness":
        def note(module: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> None:
            if len(logits) == len(self.y):
                self.stands &= logits.detach().argmax(1) == self.y

        self._hook = self.model.register_forward_hook(note)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def _half_robust(subject: Subject) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in eval mode, and images with classes that it mostly gets right."""
    data, count = subject.data, min(BATCH, 4 * subject.config().batch_size)
    x, y = to_unit(data.test_x[:count]).to(subject.device), data.test_y[:count].to(subject.device)
    if subject.random:
        model = subject.model().eval()
        with torch.no_grad():
            return model, x, model(x).argmax(1)
    trainee = Trainee(subject, "fgsm", subject.config().optimizer.learning_rate)
    size = len(trainee.batch.y)
    order = torch.randperm(len(data.train_y), generator=trainee.rng, device=subject.device)
    for number in range(TRAINING):
        start = number * size % (len(order) - size + 1)
        trainee.show(data, order[start : start + size])
        trainee.step()
        with evaluating(trainee.model) as model:
            if _mean(is_correct(model, x, y)) >= LEARNED:
                break
    return trainee.model.eval(), x, y


def balance(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> float:
    """An ε at which PGD-20 leaves about half of the images, sought from `epsilon` on by doubling and halving.

    Raises UserError if there is none.
    """
    low, high = 0.0, 0.0
    for _ in range(20):
        torch.manual_seed(0)
        left = _mean(PGD(epsilon=epsilon, steps=SEARCH).robust_mask(model, x, y))
        if abs(left - 0.5) <= max(NEAR, 1 / len(x)):
            return epsilon
        low, high = (epsilon, high) if left > 0.5 else (low, epsilon)
        epsilon = (low + high) / 2 if high else 2 * low
    raise UserError("there is no ε at which the model has half of the images right: leave the part accuracy out")


def _mean(stands: Tensor) -> float:
    return stands.float().mean().item()

"""AutoAttack, through the package pyautoattack."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from co_probe.attacks.base import Attack, Clean, Disturbance, Rng, bounds, right
from co_probe.errors import UserError

TARGETS = 9  # classes that the targeted attacks of the standard version aim at


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """The standard version: APGD on cross-entropy, targeted APGD on the DLR loss, targeted FAB, Square (5000 queries).

    With fewer than 10 classes the targeted attacks aim at every wrong class.
    Raises UserError if the package is missing, for a model of fewer than 4 classes (the DLR loss needs 4) or
    with other bounds than [0, 1].
    Source: Croce and Hein (2020), "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", in its authors' code.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None) -> Tensor:
        return self._run(model, x, y, rng)[0] - x

    def survivors(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None, alive: Tensor | None = None) -> Tensor:
        """Which images none of the four attacks breaks; each attacks only those that are left, as AutoAttack has it."""
        alive = right(model, x, y) if alive is None else alive.clone()
        index = alive.nonzero()[:, 0]
        if len(index):
            # Its own verdict: where it stops just past the boundary, x + (x' − x) may round to the near side.
            alive[index] = self._run(model, x[index], y[index], rng)[1] == y[index]
        return alive

    def covers(self, other: Disturbance) -> bool:
        return isinstance(other, Clean)

    @property
    def version(self) -> str:
        """Package and version, as kept with results. Raises UserError if it is missing."""
        _package()
        return f"pyautoattack {metadata.version('pyautoattack')}"

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """The adversarial images and the classes they are given, as one batch; global random states are restored."""
        if bounds(model) != (0.0, 1.0):
            raise UserError("AutoAttack keeps images within [0, 1], and these data do not: leave 'aa' out")
        source = rng or torch.default_generator
        seed = int(torch.randint(2**31, (), generator=source, device=source.device))
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        if classes < 4:
            raise UserError(f"AutoAttack needs at least 4 classes, and this model has {classes}: leave 'aa' out")
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []), _frozen(model), _tracing():
            adversary = _package().AutoAttack(model, eps=self.epsilon, device=x.device, seed=seed)
            for part in (adversary.apgd_targeted, adversary.fab):
                part.n_target_classes = min(TARGETS, classes - 1)
            # It reshapes images by `view`, which takes no channels-last layout.
            return adversary.run_standard_evaluation(x.contiguous(), y, batch_size=len(x))


def _package() -> Any:
    try:
        import pyautoattack
    except ImportError:
        raise UserError('AutoAttack needs another package: pip install "co-probe[autoattack]"') from None
    return pyautoattack


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no weight collects a gradient: FAB calls `backward`."""
    learning = [p for p in model.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()


@contextmanager
def _tracing() -> Iterator[None]:
    """Give a debugger or a coverage tool its trace function back: a check of AutoAttack's clears it."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)

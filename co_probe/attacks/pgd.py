"""Projected gradient descent (ascent, in truth)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.attacks.base import Attack, input_gradient, project


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """`steps` steps of δ ← Π(δ + step_size · sign ∇ₓL) from a start that is uniform in the ε-ball.

    `step_size`: pixel units, ε/4 if it is not given; `restarts`: of several random starts, each image keeps the
    δ of the largest loss. Π projects to the ε-ball and to x + δ in [0, 1].
    Raises ValueError if a setting is not positive. Source: Madry et al. (2018), section 2.1.
    """

    step_size: float | None = None
    steps: int = 10
    restarts: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1 or (self.step_size is not None and not self.step_size > 0):
            raise ValueError("step_size, steps and restarts must be greater than 0")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        best = self._ascend(model, x, y, rng)
        if self.restarts == 1:
            return best
        best_loss = _loss(model, x + best, y)
        for _ in range(self.restarts - 1):
            delta = self._ascend(model, x, y, rng)
            loss = _loss(model, x + delta, y)
            better = loss > best_loss
            best = torch.where(better[:, None, None, None], delta, best)
            best_loss = torch.where(better, loss, best_loss)
        return best

    def _ascend(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None) -> Tensor:
        step = self.epsilon / 4 if self.step_size is None else self.step_size
        start = torch.empty_like(x).uniform_(-self.epsilon, self.epsilon, generator=rng)
        delta = project(start, x, self.epsilon)
        for _ in range(self.steps):
            delta = project(delta + step * input_gradient(model, x + delta, y).sign(), x, self.epsilon)
        return delta


@torch.no_grad()
def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="none")

"""Projected gradient descent (ascent, in truth)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from co_probe.attacks.base import (
    Attack,
    Clean,
    Disturbance,
    Loss,
    Rng,
    check_norm,
    cross_entropy,
    gradient_and_logits,
    input_gradient,
    project,
    right,
    steepest,
    uniform,
)

SIZES = 32  # that a batch may shrink through: to set a convolution up for a size that it has not met takes time


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """`steps` steps of δ ← Π(δ + step_size · sign ∇ₓL) from a start that is uniform in the ε-ball.

    `step_size`: pixel units, ε/4 if it is not given; `restarts`: of several random starts, each image keeps the
    δ of the largest loss; `loss`: L, one number an image. Π projects to the ε-ball and the bounds of images.
    `norm`: with `l2`, the ball is that of the Euclidean length of the whole δ, and a step has that length.
    Raises ValueError if a setting is not positive, or for another norm than these.
    Source: Madry et al. (2018), section 2.1.
    """

    step_size: float | None = None
    steps: int = 10
    restarts: int = 1
    loss: Loss = cross_entropy
    norm: str = "linf"

    def __post_init__(self):
        super().__post_init__()
        check_norm(self.norm)
        if self.steps < 1 or self.restarts < 1 or (self.step_size is not None and not self.step_size > 0):
            raise ValueError("step_size, steps and restarts must be greater than 0")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None) -> Tensor:
        best = self._ascend(model, x, y, rng)
        if self.restarts == 1:
            return best
        best_loss = self._loss(model, x + best, y)
        for _ in range(self.restarts - 1):
            delta = self._ascend(model, x, y, rng)
            loss = self._loss(model, x + delta, y)
            better = loss > best_loss
            best = torch.where(better[:, None, None, None], delta, best)
            best_loss = torch.where(better, loss, best_loss)
        return best

    def survivors(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None, alive: Tensor | None = None) -> Tensor:
        """Which images are classified rightly at every point that PGD visits: the image, each start and each step.

        An image that a point breaks leaves the batch. Running all to the end and looking at every point gives the same.
        Source of this way to count: the evaluation code of Wong et al. (2020), "Fast is better than free"; looking only
        at the last step of each image can but give a higher accuracy.
        """
        alive = right(model, x, y) if alive is None else alive.clone()
        grain = math.ceil(len(x) / SIZES)
        for _ in range(self.restarts):
            start = self._start(model, x, rng)  # of every image: what one meets does not depend on who else is left
            index = _ahead(alive, grain)
            stands, delta, images, classes = alive[index], start[index], x[index], y[index]
            limits = self._limits(model, images)
            for _ in range(self.steps):
                if not len(index):
                    break
                gradient, logits = gradient_and_logits(model, images + delta, classes, self.loss)
                stands = stands & (logits.argmax(1) == classes)
                kept = _ahead(stands, grain)
                if len(kept) < len(index):
                    index, stands, gradient, delta = index[kept], stands[kept], gradient[kept], delta[kept]
                    images, classes, limits = images[kept], classes[kept], [limit[kept] for limit in limits]
                delta = self._move(model, delta, gradient, images, limits)
            if len(index):
                stands = stands & right(model, images + delta, classes)
            alive = torch.zeros_like(alive).index_fill_(0, index[stands], True)
        return alive

    def covers(self, other: Disturbance) -> bool:
        """The image itself is the first point; and a longer PGD passes through the points of a shorter one."""
        if isinstance(other, Clean):
            return True
        if not isinstance(other, PGD) or (self.epsilon, self.loss, self.norm) != (
            other.epsilon,
            other.loss,
            other.norm,
        ):
            return False
        return self._step == other._step and self.steps >= other.steps and self.restarts >= other.restarts

    @property
    def _step(self) -> float:
        return self.epsilon / 4 if self.step_size is None else self.step_size

    def _start(self, model: nn.Module, x: Tensor, rng: Rng) -> Tensor:
        return project(uniform(x, self.epsilon, self.norm, rng), x, self.epsilon, model, self.norm)

    def _limits(self, model: nn.Module, x: Tensor) -> list[Tensor]:
        """In L∞ the least and the greatest δ of each pixel, of the shape of `x`: the same at every step."""
        if self.norm != "linf":
            return []
        return [project(torch.full_like(x, end), x, self.epsilon, model) for end in (-self.epsilon, self.epsilon)]

    def _move(self, model: nn.Module, delta: Tensor, gradient: Tensor, x: Tensor, limits: list[Tensor]) -> Tensor:
        if limits:  # the same as below, in fewer operations
            return delta.add(gradient.sign(), alpha=self._step).clamp_(*limits)
        return project(delta + self._step * steepest(gradient, self.norm), x, self.epsilon, model, self.norm)

    def _ascend(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng) -> Tensor:
        delta, limits = self._start(model, x, rng), self._limits(model, x)
        for _ in range(self.steps):
            delta = self._move(model, delta, input_gradient(model, x + delta, y, self.loss), x, limits)
        return delta

    @torch.no_grad()
    def _loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(model(x), y)


def _ahead(stands: Tensor, grain: int) -> Tensor:
    """Positions of the images that stand and, to make their number a multiple of `grain`, of some that do not."""
    size = math.ceil(int(stands.sum()) / grain) * grain
    return stands.int().argsort(descending=True, stable=True)[:size]

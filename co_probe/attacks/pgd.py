"""Projected gradient descent: gradient ascent on the loss within the ε-ball."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from co_probe.attacks.base import (
    Attack,
    Bounds,
    Clean,
    Loss,
    Mask,
    Model,
    Perturbation,
    Rng,
    Targets,
    cross_entropy,
    gradient_and_logits,
    input_gradient,
    is_correct,
    objective,
    project,
    random_start,
    steepest,
)

BATCH_SIZES = 32  # greatest number of batch sizes as images leave a batch: convolutions need set-up for each new size


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """`steps` steps of δ ← Π(δ + step_size · sign ∇ₓL) from a random start that is uniform in the ε-ball.

    Π projects onto the ε-ball and x + δ onto the bounds.

    Args:
        step_size: In pixel units; ε/4 if None.
        steps: Number of steps of each restart.
        restarts: Number of random starts, of which each image uses the δ with the largest loss.
        loss: L, per example; raised, or lowered for the targets of a targeted attack.
        norm: `linf`; or `l2`, where ε and the step size are Euclidean lengths of the whole δ.

    Example:
        >>> delta = PGD(epsilon=8 / 255, steps=20)(model, x, y)

    Reference:
        Madry et al. (2018), section 2.1.
    """

    step_size: float | None = None
    steps: int = 10
    restarts: int = 1
    loss: Loss = cross_entropy
    norm: str = "linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1 or (self.step_size is not None and not self.step_size > 0):
            raise ValueError("step_size, steps and restarts must be greater than 0")

    @override
    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None) -> Tensor:
        best = self._ascend(model, x, y, rng, targets)
        if self.restarts == 1:
            return best
        best_value = self._value(model, x + best, y, targets)
        for _ in range(self.restarts - 1):
            delta = self._ascend(model, x, y, rng, targets)
            value = self._value(model, x + delta, y, targets)
            better = value > best_value
            best = torch.where(better[:, None, None, None], delta, best)
            best_value = torch.where(better, value, best_value)
        return best

    def robust_mask_unchecked(
        self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None, candidates: Mask = None
    ) -> Tensor:
        """Find the images that are classified correctly at every point that PGD visits: x, each start and each step.

        A misclassified image leaves the batch; the result is the same as if all images took all steps. Testing the last
        step alone would give an equal or higher accuracy.

        Reference:
            The evaluation code of Wong et al. (2020), "Fast is better than free", counts in this way.
        """
        robust = is_correct(model, x, y) if candidates is None else candidates.clone()
        grain = math.ceil(len(x) / BATCH_SIZES)
        for _ in range(self.restarts):
            # Drawn for every image, so that the start of an image does not depend on which others are left.
            start = self._start(x, rng)
            index = _padded_index(robust, grain)
            correct, delta, images, labels = robust[index], start[index], x[index], y[index]
            aims = None if targets is None else targets[index]
            limits = self._limits(images)
            for _ in range(self.steps):
                if not len(index):
                    break
                gradient, logits = gradient_and_logits(model, images + delta, labels, self.loss, aims)
                correct = correct & (logits.argmax(1) == labels)
                left = _padded_index(correct, grain)
                if len(left) < len(index):
                    index, correct, gradient, delta = index[left], correct[left], gradient[left], delta[left]
                    images, labels, limits = images[left], labels[left], [limit[left] for limit in limits]
                    aims = None if aims is None else aims[left]
                delta = self._move(delta, gradient, images, limits)
            if len(index):
                correct = correct & is_correct(model, images + delta, labels)
            robust = torch.zeros_like(robust).index_fill_(0, index[correct], True)
        return robust

    def covers(self, other: Perturbation) -> bool:
        """Return whether this attack visits all points of `other`: the image itself, or those of a shorter PGD."""
        if isinstance(other, Clean):
            return True
        if not isinstance(other, PGD) or self._ball != other._ball or self.loss != other.loss:
            return False
        return self._step == other._step and self.steps >= other.steps and self.restarts >= other.restarts

    @property
    def _ball(self) -> tuple[float, str, Bounds]:
        return self.epsilon, self.norm, self.bounds

    @property
    def _step(self) -> float:
        return self.epsilon / 4 if self.step_size is None else self.step_size

    def _start(self, x: Tensor, rng: Rng) -> Tensor:
        return random_start(x, self.epsilon, self.bounds, rng, self.norm)

    def _limits(self, x: Tensor) -> list[Tensor]:
        """Return the least and the greatest δ of each pixel in L∞, which are the same at every step."""
        if self.norm != "linf":
            return []
        return [project(torch.full_like(x, end), x, self.epsilon, self.bounds) for end in (-self.epsilon, self.epsilon)]

    def _move(self, delta: Tensor, gradient: Tensor, x: Tensor, limits: list[Tensor]) -> Tensor:
        if limits:  # same result as below in fewer operations
            return delta.add(gradient.sign(), alpha=self._step).clamp_(*limits)
        return project(delta + self._step * steepest(gradient, self.norm), x, self.epsilon, self.bounds, self.norm)

    def _ascend(self, model: Model, x: Tensor, y: Tensor, rng: Rng, targets: Targets) -> Tensor:
        delta, limits = self._start(x, rng), self._limits(x)
        for _ in range(self.steps):
            delta = self._move(delta, input_gradient(model, x + delta, y, self.loss, targets), x, limits)
        return delta

    @torch.no_grad()
    def _value(self, model: Model, x: Tensor, y: Tensor, targets: Targets) -> Tensor:
        return objective(self.loss, model(x), y, targets)


def _padded_index(correct: Tensor, grain: int) -> Tensor:
    """Return the indices of images still classified correctly, padded with others to a multiple of `grain`."""
    size = math.ceil(int(correct.sum()) / grain) * grain
    return correct.int().argsort(descending=True, stable=True)[:size]

"""Perturbations that know nothing of the model: the yardsticks of a generator that has decayed, and of a model."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from co_probe.attacks.base import Attack, Disturbance, Rng, project


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """δ ~ U(−ε, ε) for each pixel or, with `sign`, −ε or +ε with equal odds; then x + δ clipped to [0, 1].

    Source: the random line of Figures 1b and 2a of arXiv 2010.08034.
    """

    sign: bool = False

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None) -> Tensor:
        delta = torch.empty_like(x).uniform_(-self.epsilon, self.epsilon, generator=rng)
        return project(self.epsilon * delta.sign() if self.sign else delta, x, self.epsilon, model)


@dataclass(frozen=True, kw_only=True)
class Gaussian(Disturbance):
    """δ ~ N(0, σ²) for each pixel, then x + δ clipped to [0, 1]: a corruption, in no ε-ball.

    `sigma`: σ, in units of a [0, 1] image. Raises ValueError if it is not greater than 0.
    Source: the Gaussian columns of Tables 2 to 4 of arXiv 2010.08034 (σ = 0.1).
    """

    sigma: float = 0.1

    def __post_init__(self):
        if not self.sigma > 0:
            raise ValueError(f"sigma must be greater than 0, not {self.sigma:g}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None) -> Tensor:
        return project(torch.empty_like(x).normal_(0, self.sigma, generator=rng), x, math.inf, model)

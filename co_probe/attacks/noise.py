"""Perturbations that do not depend on the model, as baselines."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from co_probe.attacks.base import Attack, Model, Perturbation, Rng, Targets, project


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """δ ~ U(−ε, ε) for each pixel, with x + δ clipped to the bounds.

    Args:
        sign: Draw −ε or +ε with equal probability instead.

    Reference:
        The random line of Figures 1b and 2a of arXiv 2010.08034.
    """

    sign: bool = False

    @override
    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None) -> Tensor:
        delta = torch.empty_like(x).uniform_(-self.epsilon, self.epsilon, generator=rng)
        return project(self.epsilon * delta.sign() if self.sign else delta, x, self.epsilon, self.bounds)


@dataclass(frozen=True, kw_only=True)
class Gaussian(Perturbation):
    """δ ~ N(0, σ²) for each pixel, with x + δ clipped to the bounds: a corruption, not limited by any ε.

    Args:
        sigma: σ, in units of a [0, 1] image.

    Raises:
        ValueError: If `sigma` is not greater than 0.

    Reference:
        The Gaussian columns of Tables 2 to 4 of arXiv 2010.08034 (σ = 0.1).
    """

    sigma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma > 0:
            raise ValueError(f"sigma must be greater than 0, not {self.sigma:g}")

    @override
    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None) -> Tensor:
        return project(torch.empty_like(x).normal_(0, self.sigma, generator=rng), x, math.inf, self.bounds)

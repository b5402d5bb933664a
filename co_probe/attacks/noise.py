"""Perturbations that know nothing of the model: the yardstick of a generator that has decayed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from co_probe.attacks.base import Attack, project


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """δ ~ U(−ε, ε) for each pixel or, with `sign`, −ε or +ε with equal odds; then x + δ clipped to [0, 1].

    Source: the random line of Figures 1b and 2a of arXiv 2010.08034.
    """

    sign: bool = False

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        delta = torch.empty_like(x).uniform_(-self.epsilon, self.epsilon, generator=rng)
        return project(self.epsilon * delta.sign() if self.sign else delta, x, self.epsilon)

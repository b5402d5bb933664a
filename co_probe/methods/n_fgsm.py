"""FGSM adversarial training around strong noise, without projection."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from co_probe import attacks
from co_probe.methods.base import Method


@dataclass(eq=False, kw_only=True)
class NFGSM(Method):
    """N-FGSM: η ~ U(−kε, kε); δ = η + α · sign ∇ₓL(x + η). x + η and x + δ are clipped to [0, 1], δ not to the ε-ball.

    So |δ| is up to α + kε: its own perturbation may be stronger than any attack within ε, and the gap then negative.
    `noise`: k, and `relative_step`: α, in units of ε. Raises ValueError if one is not positive.
    Source: de Jorge et al. (2022), "Make some noise"; x + η is clipped as in their code.
    """

    noise: float = 2.0
    relative_step: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not (self.noise > 0 and self.relative_step > 0):
            raise ValueError("noise and relative_step must be greater than 0 (without noise this is fgsm)")

    def perturb(
        self, model: nn.Module, x: Tensor, y: Tensor, rng: attacks.Rng = None, state: Tensor | None = None
    ) -> Tensor:
        noise = attacks.random_start(x, self.noise * self.epsilon, self.bounds, rng)
        sign = attacks.input_gradient(model, x + noise, y).sign()
        return attacks.project(noise + self.relative_step * self.epsilon * sign, x, math.inf, self.bounds)

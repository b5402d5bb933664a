"""FGSM adversarial training from a random start."""

from dataclasses import dataclass

from torch import Tensor, nn

from co_probe import attacks
from co_probe.methods.base import Method


@dataclass(eq=False, kw_only=True)
class FGSMRS(Method):
    """F+FGSM: one step that is longer than ε, from a random start in the ε-ball.

    δ₀ ~ U(−ε, ε); δ = clip(δ₀ + α · sign ∇ₓL(x + δ₀), ±ε). x + δ₀ and x + δ are clipped to [0, 1].
    `relative_step`: α in units of ε. Raises ValueError if it is not positive.
    Source: Wong et al. (2020), "Fast is better than free", Algorithm 3; x + δ₀ is clipped as in their code.
    """

    relative_step: float = 1.25

    def __post_init__(self):
        super().__post_init__()
        if not self.relative_step > 0:
            raise ValueError(f"relative_step must be greater than 0, not {self.relative_step:g}")

    def perturb(
        self, model: nn.Module, x: Tensor, y: Tensor, rng: attacks.Rng = None, state: Tensor | None = None
    ) -> Tensor:
        start = attacks.random_start(x, self.epsilon, self.bounds, rng)
        sign = attacks.input_gradient(model, x + start, y).sign()
        return attacks.project(start + self.relative_step * self.epsilon * sign, x, self.epsilon, self.bounds)

"""F+FGSM: FGSM adversarial training from a random start."""

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, input_gradient, project, random_start
from co_probe.attacks.base import Model
from co_probe.methods.base import Method, check_positive


@dataclass(eq=False, kw_only=True)
class FGSMRS(Method):
    """F+FGSM: one step longer than ε from a random start in the ε-ball.

    δ₀ ~ U(−ε, ε); δ = clip(δ₀ + α · sign ∇ₓL(x + δ₀), ±ε). x + δ₀ and x + δ are clipped to the bounds.

    Args:
        relative_step: α in units of ε.

    Reference:
        Wong et al. (2020), "Fast is better than free", Algorithm 3; x + δ₀ is clipped as in their code.
    """

    relative_step: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(relative_step=self.relative_step)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        start = random_start(x, epsilon, self.bounds, rng)
        sign = input_gradient(model, x + start, y).sign()
        return project(start + self.relative_step * epsilon * sign, x, epsilon, self.bounds)

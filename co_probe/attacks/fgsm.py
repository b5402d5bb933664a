"""The fast gradient sign method."""

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from co_probe.attacks.base import Attack, Model, Rng, Targets, input_gradient, project, steepest


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """δ = ε · sign ∇ₓL(θ; x, y), with x + δ clipped to the bounds. No random start.

    Args:
        norm: `linf`; or `l2`, where δ = ε · ∇ₓL / ‖∇ₓL‖.

    Reference:
        Goodfellow et al. (2015), "Explaining and harnessing adversarial examples", section 4.
    """

    norm: str = "linf"

    @override
    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None) -> Tensor:
        delta = self.epsilon * steepest(input_gradient(model, x, y, targets=targets), self.norm)
        return project(delta, x, self.epsilon, self.bounds, self.norm)

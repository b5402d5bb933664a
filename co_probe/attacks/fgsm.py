"""The fast gradient sign method."""

from dataclasses import dataclass

from torch import Tensor, nn

from co_probe.attacks.base import Attack, Rng, check_norm, input_gradient, project, steepest


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """δ = ε · sign ∇ₓL(θ; x, y), then x + δ clipped to [0, 1]. No random start.

    `norm`: with `l2`, δ = ε · ∇ₓL / ‖∇ₓL‖ instead. Raises ValueError for another norm than these.
    Source: Goodfellow et al. (2015), "Explaining and harnessing adversarial examples", section 4.
    """

    norm: str = "linf"

    def __post_init__(self):
        super().__post_init__()
        check_norm(self.norm)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None) -> Tensor:
        delta = self.epsilon * steepest(input_gradient(model, x, y), self.norm)
        return project(delta, x, self.epsilon, model, self.norm)

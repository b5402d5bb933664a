"""The fast gradient sign method."""

from dataclasses import dataclass

from torch import Tensor, nn

from co_probe.attacks.base import Attack, Rng, input_gradient, project


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """δ = ε · sign ∇ₓL(θ; x, y), then x + δ clipped to [0, 1]. No random start.

    Source: Goodfellow et al. (2015), "Explaining and harnessing adversarial examples", section 4.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None) -> Tensor:
        return project(self.epsilon * input_gradient(model, x, y).sign(), x, self.epsilon, model)

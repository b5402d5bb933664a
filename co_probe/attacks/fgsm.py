"""The fast gradient sign method."""

from dataclasses import dataclass

from torch import Tensor

from co_probe.attacks.base import Attack, Model, Rng, check_norm, input_gradient, project, steepest


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """δ = ε · sign ∇ₓL(θ; x, y), with x + δ clipped to the bounds. No random start.

    Args:
        epsilon: Norm bound, in pixel units.
        norm: `linf`; or `l2`, where δ = ε · ∇ₓL / ‖∇ₓL‖.
        bounds: Least and greatest pixel value.

    Raises:
        ValueError: If `epsilon` is not positive or the norm is unknown.

    Reference:
        Goodfellow et al. (2015), "Explaining and harnessing adversarial examples", section 4.
    """

    norm: str = "linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)

    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Tensor | None = None) -> Tensor:
        delta = self.epsilon * steepest(input_gradient(model, x, y, targets=targets), self.norm)
        return project(delta, x, self.epsilon, self.bounds, self.norm)

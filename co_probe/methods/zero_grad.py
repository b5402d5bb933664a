"""ZeroGrad: F+FGSM without the smallest gradient components."""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, input_gradient, project, random_start
from co_probe.attacks.base import Model
from co_probe.methods.base import Method, check_positive


@dataclass(eq=False, kw_only=True)
class ZeroGrad(Method):
    """ZeroGrad: one step from a random start that ignores the smallest components of the gradient.

    δ₀ ~ U(−ε, ε) and g = ∇ₓL(x + δ₀). In each image, components of |g| below their q-quantile (interpolated linearly)
    become 0; then δ = clip(δ₀ + α · sign g, ±ε). x + δ₀ and x + δ are clipped to the bounds.
    Cost: 5 passes, as FGSM.

    Args:
        quantile: q, in [0, 1): 0.35 for CIFAR-10, 0.45 for CIFAR-100 and 0.7 for SVHN in the authors' commands.
        relative_step: α in units of ε.

    Raises:
        ValueError: If a setting is out of range.

    Reference:
        Golgooni et al. (2021), "ZeroGrad: Mitigating and explaining catastrophic overfitting in FGSM adversarial
        training", https://arxiv.org/abs/2103.15476; their code (github.com/rohban-lab/catastrophic_overfitting) gives
        the same perturbations.
    """

    quantile: float = 0.35
    relative_step: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(relative_step=self.relative_step)
        if not 0 <= self.quantile < 1:
            raise ValueError(f"quantile must be at least 0 and less than 1, not {self.quantile:g}")

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        start = random_start(x, epsilon, self.bounds, rng)
        gradient = input_gradient(model, x + start, y)
        size = gradient.abs()
        least = torch.quantile(size.flatten(1), self.quantile, dim=1)[:, None, None, None]
        sign = torch.where(size < least, 0, gradient.sign())
        return project(start + self.relative_step * epsilon * sign, x, epsilon, self.bounds)

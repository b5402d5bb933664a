"""MultiGrad: FGSM on components whose gradients agree at several random points of the ε-ball."""

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, input_gradient, project, random_start
from co_probe.attacks.base import Model
from co_probe.methods.base import Method, check_positive


@dataclass(eq=False, kw_only=True)
class MultiGrad(Method):
    """MultiGrad: a step from x along the signs on which the gradients at m random points agree.

    g_k = ∇ₓL(x + η_k) with η_k ~ U(−ε, ε) for k = 1 ... m, x + η_k clipped to the bounds. δ = clip(α · s, ±ε), where s
    is the common sign of a component of all g_k, and 0 where they disagree or one is 0. x + δ is clipped to the bounds.
    Cost: 2m + 3 passes, 9 with the default.

    The m points are passed one after the other, as in the authors' commands; their option of one batch, with BatchNorm
    statistics of m·B images, is omitted.

    Args:
        samples: m.
        relative_step: α in units of ε; all values from 1 on are equivalent.

    Raises:
        ValueError: If a setting is out of range.

    Reference:
        Golgooni et al. (2021), https://arxiv.org/abs/2103.15476; their code
        (github.com/rohban-lab/catastrophic_overfitting) gives the same perturbations.
    """

    samples: int = 3
    relative_step: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(samples=self.samples, relative_step=self.relative_step)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        signs = [
            input_gradient(model, x + random_start(x, epsilon, self.bounds, rng), y).sign() for _ in range(self.samples)
        ]
        agreed = sum(signs[1:], signs[0]) / self.samples
        step = self.relative_step * epsilon * agreed.trunc()  # ±1 only where all of them are
        return project(step, x, epsilon, self.bounds)

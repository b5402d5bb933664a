"""FGSM along the components whose gradients agree at several random places of the ε-ball."""

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, input_gradient, project, random_start
from co_probe.attacks.base import Model
from co_probe.methods.base import Method, check_positive


@dataclass(eq=False, kw_only=True)
class MultiGrad(Method):
    """MultiGrad: a step from x along the signs in which the gradients at all of m random places agree.

    g_k = ∇ₓL(x + η_k) with η_k ~ U(−ε, ε) for k = 1 ... m, x + η_k clipped to the bounds. δ = clip(α · s, ±ε), where s
    is the common sign of a component of all g_k, and 0 where they disagree or one is 0. x + δ is clipped to the bounds.
    Cost: 2m + 3 passes, 9 with the default.

    The m places are passed one after the other, as in the authors' commands; their option to pass them as one batch
    gives BatchNorm statistics of m·B images, and is left out.

    Args:
        samples: m.
        relative_step: α in units of ε; from ε on, all are the same.

    Raises:
        ValueError: If a setting is out of range.

    Reference:
        Golgooni et al. (2021), https://arxiv.org/abs/2103.15476; everything here is as in their code
        (github.com/rohban-lab/catastrophic_overfitting), which gives the same perturbations.
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

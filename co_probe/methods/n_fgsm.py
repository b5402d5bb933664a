"""N-FGSM: FGSM adversarial training from strong noise, without projection."""

import math
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, input_gradient, project, random_start
from co_probe.attacks.base import Model
from co_probe.methods.base import Method, check_positive


@dataclass(eq=False, kw_only=True)
class NFGSM(Method):
    """N-FGSM: η ~ U(−kε, kε); δ = η + α · sign ∇ₓL(x + η).

    x + η and x + δ are clipped to the bounds; δ is not clipped to the ε-ball and may be as large as α + kε. It can
    therefore be stronger than attacks within ε, with a negative gap.

    Args:
        noise: k, in units of ε.
        relative_step: α, in units of ε.

    Reference:
        de Jorge et al. (2022), "Make some noise"; x + η is clipped as in their code.
    """

    noise: float = 2.0
    relative_step: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(noise=self.noise, relative_step=self.relative_step)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        noise = random_start(x, self.noise * epsilon, self.bounds, rng)
        sign = input_gradient(model, x + noise, y).sign()
        return project(noise + self.relative_step * epsilon * sign, x, math.inf, self.bounds)

"""lp-FGSM: FGSM in an Lp ball, with p adapted to the gradient of each image."""

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, input_gradient, project
from co_probe.attacks.base import Model
from co_probe.methods.base import Method, check_positive

LEAST_Q, MOST_Q = 1.00098, 2.0  # p from about 1,021 down to 2
SMALLEST = 1e-12  # least ρ, so that its logarithm is finite


@dataclass(eq=False, kw_only=True)
class LpFGSM(Method):
    """lp-FGSM: the steepest step of Lp length ε from x, with p ≥ 2 adapted to each image's gradient.

    With g = ∇ₓL(x), d components, ρ = |g|/‖g‖₁ and the entropy gap ΔH = −(1/d) Σ ln ρ + Σ ρ ln ρ ≥ 0, both per image:
        q = 1 + β/ΔH, clipped to [1.00098, 2];   δ = ε · sign g · (|g|/‖g‖_q)^(q − 1)
    which has length ε in the norm p = q/(q − 1), so it is within the L∞ ball of ε. There is no random start, and x + δ
    is clipped to the bounds. For an even gradient (ΔH = 0) it is an L2 step, for a large ΔH nearly that of FGSM. Cost:
    5 passes, as FGSM.

    Where sources differ: the general form q = 1 + (τ√(d/PR₁) − 1)/ΔH with τ = (1 + β)√(PR₁/d), printed with the
    authors' code, is the same as 1 + β/ΔH. Their text says that p falls where the gradient concentrates; by these
    definitions it rises, as in their notebook. The notebook does not clip x + δ, and adds 1e-12 to
    |g| rather than to ρ.

    Args:
        beta: β; 0.01 for CIFAR-10 and SVHN, 0.1 for CIFAR-100 (the notebook's own runs use 0.001).

    Raises:
        ValueError: If `beta` is not greater than 0.

    Reference:
        Mehouachi and Jabari (2025), "An lp norm solution to catastrophic overfitting in fast adversarial training",
        https://arxiv.org/abs/2505.02360; github.com/FaresBMehouachi/lpfgsm.
    """

    beta: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(beta=self.beta)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        gradient = input_gradient(model, x, y)
        size = gradient.abs().flatten(1)
        share = (size / size.sum(1, keepdim=True)).nan_to_num().clamp(min=SMALLEST)  # ρ, (B, d)
        logs = share.log()
        gap = (share * logs).sum(1, keepdim=True) - logs.mean(1, keepdim=True)
        q = (1 + self.beta / gap.clamp(min=0)).clamp(LEAST_Q, MOST_Q)
        length = share.pow(q).sum(1, keepdim=True).pow(1 / q)
        step = (share / length).pow(q - 1).view_as(gradient)
        return project(epsilon * gradient.sign() * step, x, epsilon, self.bounds)

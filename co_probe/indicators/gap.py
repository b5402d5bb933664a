"""The gap: loss under a strong attack minus loss under a weak one."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from co_probe.attacks.base import Bounds, Model
from co_probe.indicators.perturbation import AttackLike, make_perturbation
from co_probe.inference.evaluation import Outcome, outcome
from co_probe.numerics.statistics import mean_interval


@dataclass(frozen=True)
class GapResult:
    """The gap on a set of images.

    Attributes:
        strong: Loss and correctness of each example under the strong attack.
        weak: The same under the weak attack.
        value: The gap in nats, the mean of `per_example`.
        low: Lower end of its 95% normal interval.
        high: Upper end of its 95% normal interval.
    """

    strong: Outcome = field(repr=False)
    weak: Outcome = field(repr=False)
    value: float
    low: float
    high: float

    @property
    def per_example(self) -> Tensor:
        """L(δ_strong) − L(δ_weak) of each example in nats, (n,)."""
        return self.strong.loss - self.weak.loss


def gap(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    strong: AttackLike = "pgd10",
    weak: AttackLike = "fgsm",
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    seed: int = 0,
) -> GapResult:
    """Compute the mean of L(x + δ_strong) − L(x + δ_weak), with L the cross-entropy in nats.

    Near 0 in a healthy model, whose loss is almost linear within the ε-ball, so one step is as effective as ten.
    Several nats after catastrophic overfitting, when the weak perturbation has decayed. Slightly negative values are
    noise.

    Cost: with the defaults 11 forward-backward passes (10 of PGD-10, 1 of FGSM) and 2 forward passes.

    Args:
        model: Takes (B, C, H, W) images and returns (B, classes) logits. Used in eval mode; its mode is restored.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).
        epsilon: Norm bound of attacks that are given by name, in pixel units of a [0, 1] image.
        strong: Attack B: an attack's name, an attack, or its perturbations (n, C, H, W).
        weak: Attack A, given in the same way; the default FGSM makes all training methods comparable.
        norm: The norm that `epsilon` bounds, `linf` or `l2`.
        bounds: Least and greatest value of a pixel.
        seed: The same seed gives the same random starts.

    Returns:
        The gap with its interval, and the outcome of each example.

    Example:
        >>> co_probe.indicators.gap(model, x, y, epsilon=8 / 255).value

    Reference:
        arXiv 2010.08034, Equation 2, with the sign of its prose and figures (its Equation 2 prints the opposite).
    """
    ball: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "bounds": bounds, "seed": seed}
    under_strong, under_weak = (
        outcome(model, x, y, make_perturbation(attack, model, x, y, **ball), bounds) for attack in (strong, weak)
    )
    value, low, high = mean_interval((under_strong.loss - under_weak.loss).cpu().numpy())
    return GapResult(under_strong, under_weak, value, low, high)

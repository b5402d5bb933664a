"""Decision boundary distortion: a smaller perturbation fools a model that resists the full one."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from co_probe.attacks.base import Bounds, check_input
from co_probe.attacks.fgsm import FGSM
from co_probe.inference.evaluation import outcome, perturb
from co_probe.numerics.statistics import wilson

POINTS = 20


@dataclass(frozen=True)
class DistortionResult:
    """Decision boundary distortion on a set of images.

    Attributes:
        distorted: Whether each image of the denominator is misclassified between x and x + δ, bool (m,), m ≤ n.
        n: Number of all images.
        masked: Share of images with a zero gradient, in [0, 1], which have no perturbation and are excluded.
    """

    distorted: Tensor = field(repr=False)
    n: int
    masked: float

    @property
    def denominator(self) -> int:
        """m, the number of images with a perturbation that are classified correctly at both ends."""
        return len(self.distorted)

    @property
    def value(self) -> float | None:
        """Share of distorted images among the denominator, in [0, 1]; None if it is 0."""
        return self.distorted.float().mean().item() if self.denominator else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% Wilson interval of `value`; None if the denominator is 0."""
        return None if self.value is None else wilson(self.value, self.denominator)


def distortion(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    points: int = POINTS,
    checked: bool = False,
) -> DistortionResult:
    """Compute the share of images that are correct at x and x + δ, and misclassified at a point in between.

    The points are x + (k/points) δ with FGSM's δ, without a random start, clipped to the bounds. In [0, 1]. Healthy: 0.
    After catastrophic overfitting, smaller perturbations may fool a model that resists the one it was trained on: for
    all images in the source's CIFAR-10 model, for at most 11% on digits, where robustness is lost off this line. The
    share is unreliable if the denominator, which is part of the result, is small, as in a model that FGSM breaks.

    Cost: 1 forward-backward and 2 forward passes of all images, `points` − 1 forward passes of the denominator.
    BatchNorm is in eval mode.

    Args:
        model: Takes (B, C, H, W) images and returns (B, classes) logits. Used in eval mode; its mode is restored.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).
        epsilon: Norm bound of FGSM, in pixel units of a [0, 1] image.
        norm: The norm that `epsilon` bounds, `linf` or `l2`.
        bounds: Least and greatest value of a pixel.
        points: Number of equal parts of δ, at least 2; a multiple of it can only find more distorted images.
        checked: Whether the images have been validated already, as those of a run have.

    Returns:
        The outcome of each image of the denominator, and the number of all images.

    Raises:
        ValueError: If `points` is less than 2.
        UserError: If the images are not of shape (n, C, H, W) or not within `bounds`.

    Example:
        >>> result = co_probe.indicators.distortion(model, x, y, epsilon=8 / 255)
        >>> result.value, result.denominator

    Reference:
        Kim, Lee and Lee (AAAI 2021), https://arxiv.org/abs/2010.01799; their released notebook takes 100 parts, in eval
        mode, prints the fraction 1.00 of a collapsed model as "1.00 %", and counts images without a perturbation as not
        distorted.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, not {points}")
    if not checked:
        check_input(x, y, None, bounds)
    delta = perturb(model, FGSM(epsilon=epsilon, norm=norm, bounds=bounds), x, y)
    has_delta = delta.flatten(1).any(1)
    right = outcome(model, x, y, bounds=bounds).correct & outcome(model, x, y, delta, bounds).correct & has_delta
    x, y, delta = x[right], y[right], delta[right]
    distorted = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for k in range(1, points) if len(x) else ():
        distorted |= ~outcome(model, x, y, delta * (k / points), bounds).correct
    return DistortionResult(distorted, len(right), 1 - has_delta.double().mean().item())

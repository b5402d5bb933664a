"""Strength: effect of a model's perturbations on a fixed reference model."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from co_probe.attacks.base import Bounds, Model, check_input
from co_probe.attacks.noise import Noise
from co_probe.indicators.perturbation import AttackLike, make_perturbation
from co_probe.inference.evaluation import outcome
from co_probe.numerics.rng import make_rng
from co_probe.numerics.statistics import wilson

NOISE_DRAWS = 10


@dataclass(frozen=True)
class StrengthResult:
    """Accuracy of the reference model on transferred perturbations.

    Attributes:
        correct: Whether the reference classifies each example correctly, bool (n,).
        value: Their share, in [0, 1]; lower = stronger.
        low: Lower end of its 95% Wilson interval.
        high: Upper end of its 95% Wilson interval.
    """

    correct: Tensor = field(repr=False)
    value: float
    low: float
    high: float


def strength(
    model: Model,
    reference: Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    attack: AttackLike = "fgsm",
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    seed: int = 0,
) -> StrengthResult:
    """Compute Acc(θ_ref, f(θ)): accuracy of `reference` on perturbations that are made on `model`.

    In [0, 1]; lower = stronger. In a healthy model it stays well below the accuracy under noise (`noise_accuracy`);
    after catastrophic overfitting it rises to that accuracy or above, because perturbations have decayed to noise.

    Cost: with the default 1 forward-backward pass of `model` and 1 forward pass of `reference`.

    Args:
        model: The model that perturbations are made on: (B, C, H, W) images to (B, classes) logits.
        reference: The fixed model that perturbations are transferred to, for the same images and classes.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).
        epsilon: Norm bound of an attack that is given by name, in pixel units of a [0, 1] image.
        attack: f: an attack's name, an attack, or perturbations (n, C, H, W).
        norm: The norm that `epsilon` bounds, `linf` or `l2`.
        bounds: Least and greatest value of a pixel.
        seed: The same seed gives the same random starts.

    Returns:
        The accuracy with its interval, and the correctness of each example.

    Example:
        >>> co_probe.indicators.strength(model, reference, x, y, epsilon=8 / 255).value

    Reference:
        arXiv 2010.08034, section 3 and Figure 2a.
    """
    delta = make_perturbation(attack, model, x, y, epsilon=epsilon, norm=norm, bounds=bounds, seed=seed)
    correct = outcome(reference, x, y, delta, bounds).correct
    value = correct.float().mean().item()
    return StrengthResult(correct, value, *wilson(value, len(y)))


def noise_accuracy(
    reference: Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    sign: bool = False,
    bounds: Bounds = (0.0, 1.0),
    draws: int = NOISE_DRAWS,
    seed: int = 0,
    checked: bool = False,
) -> Tensor:
    """Evaluate `reference` under noise, the baseline of decayed perturbations.

    Cost: `draws` forward passes.

    Args:
        reference: Takes (B, C, H, W) images and returns (B, classes) logits.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).
        epsilon: Bound of the noise in L∞, in pixel units of a [0, 1] image.
        sign: Draw −ε or +ε for each pixel instead of U(−ε, ε).
        bounds: Least and greatest value of a pixel.
        draws: Number of independent draws for each image.
        seed: The same seed gives the same noise.
        checked: Whether the images have been validated already, as those of a run have.

    Returns:
        Whether each example is classified correctly in each draw, bool (draws, n).

    Raises:
        UserError: If the images are not of shape (n, C, H, W) or not within `bounds`.
    """
    if not checked:
        check_input(x, y, None, bounds)
    rng, noise = make_rng(x.device, seed, "probe"), Noise(epsilon=epsilon, sign=sign, bounds=bounds)
    deltas = (noise.generate(reference, x, y, rng) for _ in range(draws))
    return torch.stack([outcome(reference, x, y, delta, bounds).correct for delta in deltas])

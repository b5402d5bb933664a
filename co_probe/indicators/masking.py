"""Masked gradients: checks of robustness under PGD by attacks that do not rely on the same gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from co_probe.attacks.base import Bounds, Model, Perturbation, Rng, check_input, input_gradient, lengths, project
from co_probe.attacks.fgsm import FGSM
from co_probe.attacks.margin import margin
from co_probe.attacks.noise import Noise
from co_probe.attacks.pgd import PGD
from co_probe.attacks.square import Square
from co_probe.config.masking import Finding, evidence
from co_probe.indicators.zero_gradients import nonzero
from co_probe.inference.evaluation import batch_size, outcome, perturb
from co_probe.inference.forward import Forward
from co_probe.numerics.rng import make_rng
from co_probe.numerics.statistics import mean_interval, wilson

__all__ = ["Finding", "MaskingResult", "evidence", "masking"]

QUERIES = 100
NOISE_DRAWS = 10
STEP_SIZES = (0.1, 0.5, 1.0)  # in units of ε, in addition to the usual 1/4
LARGE_STEPS = 20

VANISHING = 0.05
"""Suspicious share of images with zero gradient that PGD leaves correct (Athalye et al. 2018)."""

WEAKER_WINS = 0.05
"""Allowed excess of PGD-10 accuracy over that of noise or Square (Carlini et al. 2019); in theory 0."""

STRONGER_WINS = 0.1
"""The same for variants of PGD, which may be stronger than PGD-10 on models without masking too.

On digits (19 runs, 35 checkpoints, 128 images) the margin was stronger by up to 2 points, other step sizes by up to 6.
"""


@dataclass(frozen=True)
class MaskingResult:
    """Accuracies, in [0, 1], under attacks that should be weaker than PGD-10, or break every image.

    Attributes:
        findings: Each number, with its interval and whether it is suspicious.
        large_epsilon: The ε at which every image can become uniform grey, in the same unit as `epsilon`.
        n: Number of images.
    """

    findings: tuple[Finding, ...]
    large_epsilon: float
    n: int

    def __getitem__(self, quantity: str) -> Finding:
        return next(each for each in self.findings if each.quantity == quantity)

    @property
    def masked(self) -> bool:
        """Whether any finding is suspicious."""
        return any(each.suspicious for each in self.findings)

    @property
    def evidence(self) -> tuple[str, ...]:
        """The suspicious findings in words."""
        return evidence(self.findings)


def masking(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    queries: int = QUERIES,
    seed: int = 0,
    checked: bool = False,
) -> MaskingResult:
    """Check whether robustness under PGD-10 is due to masked gradients.

    A check is suspicious if the 95% interval of its number lies beyond a threshold, and only if accuracy under PGD-10
    (as training measures it: the last of 10 steps of ε/4) is above that of guessing. If PGD-10 breaks the model, there
    is no robustness to question: an FGSM weaker than noise is then a sign of catastrophic overfitting.

    - `vanishing`: share of images that PGD-10 leaves correct and whose gradient of the cross-entropy at x is zero in
      every component; above 5%. A softmax saturates in float32 where logits differ by 104.
    - `noise`: accuracy under the worst of 10 random draws from the corners of the ε-ball (of its sphere in L2); more
      than 5 points below PGD-10.
    - `margin`: accuracy under 10 steps of PGD on the margin of the logits; more than 10 points below PGD-10.
    - `query`: accuracy under Square; more than 5 points below PGD-10.
    - `steps`: least accuracy under 10 steps of PGD with steps of ε/10, ε/2 and ε; more than 10 points below PGD-10.
    - `large`: accuracy under 20 steps of PGD with ε of half the range of pixels, where all images can become the same
      grey; above that of always guessing the most frequent class.

    Cost: at most about 80 forward-backward and `queries` + 10 forward passes; broken images leave the batch.

    Args:
        model: Takes (B, C, H, W) images and returns (B, classes) logits. Used in eval mode; its mode is restored.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,). 100 images or more give intervals narrow enough for most thresholds.
        epsilon: Norm bound, in pixel units of a [0, 1] image.
        norm: The norm that `epsilon` bounds, `linf` or `l2`.
        bounds: Least and greatest value of a pixel; if infinite, the range of `x` sets the large ε.
        queries: Forward passes of Square per image.
        seed: The same seed gives the same random starts.
        checked: Whether the images have been validated already, as those of a run have.

    Returns:
        The findings.

    Raises:
        UserError: If the images are not of shape (n, C, H, W) or not within `bounds`.

    Example:
        >>> result = co_probe.indicators.masking(model, x, y, epsilon=8 / 255)
        >>> co_probe.verdict(clean=clean, pgd=pgd, masking=result.evidence)

    Reference:
        Athalye et al. (2018), https://arxiv.org/abs/1802.00420, section 3.1: one-step attacks that beat iterated ones,
        black-box attacks that beat white-box ones, unbounded attacks that fail, random sampling that finds adversarial
        examples. Carlini et al. (2019), https://arxiv.org/abs/1902.06705, for step sizes, gradient-free attacks,
        unbounded attacks, and losses that saturate. Neither source gives numbers; the thresholds are ours.
    """
    if not checked:
        check_input(x, y, None, bounds)
    forward, large = Forward(model, batchnorm="eval"), _large_epsilon(x, norm, bounds)
    ball: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "bounds": bounds}

    def rng() -> Rng:
        return make_rng(x.device, seed, "probe")

    def last_point(attack: Perturbation) -> Tensor:
        return outcome(forward, x, y, perturb(forward, attack, x, y, rng()), bounds).correct

    def every_point(attack: Perturbation) -> Tensor:
        random = rng()
        return _by_batch(lambda xs, ys: attack.robust_mask_unchecked(forward, xs, ys, random), x, y)

    clean = outcome(forward, x, y, bounds=bounds).correct
    fgsm, pgd = (last_point(attack) for attack in (FGSM(**ball), PGD(**ball)))
    zero = ~_by_batch(lambda xs, ys: nonzero(input_gradient(forward, xs, ys)), x, y)
    random = rng()
    noise = clean.clone()
    for _ in range(NOISE_DRAWS):
        noise &= outcome(forward, x, y, _noise(forward, x, y, epsilon, norm, bounds, random), bounds).correct
    sweep = [every_point(PGD(**ball, step_size=share * epsilon)) for share in STEP_SIZES]
    others = {
        "noise": (noise, WEAKER_WINS),
        "margin": (every_point(PGD(**ball, loss=margin)), STRONGER_WINS),
        "query": (every_point(Square(**ball, queries=queries)), WEAKER_WINS),
        "steps": (min(sweep, key=lambda correct: int(correct.sum())), STRONGER_WINS),
    }
    at_large = every_point(PGD(epsilon=large, norm=norm, bounds=bounds, steps=LARGE_STEPS))

    chance = y.bincount().max().item() / len(y)
    robust = _finding("pgd10", pgd).low > chance
    findings = [_finding("clean", clean), _finding("fgsm", fgsm), _finding("pgd10", pgd)]
    findings.append(_finding("vanishing", pgd & zero, limit=VANISHING if robust else None))
    for name, (correct, limit) in others.items():
        behind = mean_interval((pgd.float() - correct.float()).cpu().numpy())[1]
        findings.append(_finding(name, correct, suspicious=robust and behind > limit))
    findings.append(_finding("large", at_large, limit=chance if robust else None))
    return MaskingResult(tuple(findings), large, len(y))


def _finding(quantity: str, images: Tensor, *, limit: float | None = None, suspicious: bool = False) -> Finding:
    """Make the finding on a share of images, bool (n,): suspicious if its interval lies above `limit`."""
    value = images.float().mean().item()
    low, high = wilson(value, len(images))
    return Finding(quantity, value, low, high, suspicious or (limit is not None and low > limit))


def _by_batch(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Apply `function` batch by batch, (n,)."""
    size = batch_size(x)
    return torch.cat([function(xs, ys) for xs, ys in zip(x.split(size), y.split(size), strict=True)])


def _noise(model: Model, x: Tensor, y: Tensor, epsilon: float, norm: str, bounds: Bounds, rng: Rng) -> Tensor:
    """Draw a random δ on the boundary of the ball, of the shape of `x`."""
    if norm == "linf":
        return Noise(epsilon=epsilon, sign=True, bounds=bounds).generate(model, x, y, rng)
    direction = torch.empty_like(x).normal_(generator=rng)
    return project(epsilon * direction / lengths(direction), x, epsilon, bounds, norm)


def _large_epsilon(x: Tensor, norm: str, bounds: Bounds) -> float:
    """Return half the range of pixels, as a length in `norm`; within it every image can become uniform grey."""
    low, high = bounds if all(abs(bound) < float("inf") for bound in bounds) else (x.min().item(), x.max().item())
    return (high - low) / 2 * (1.0 if norm == "linf" else x[0].numel() ** 0.5)

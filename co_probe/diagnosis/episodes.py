"""Episodes of catastrophic overfitting in the accuracy curves of a training run.

An episode is an interval of epochs in which robust accuracy has collapsed while accuracy under the training attack has
not. The search has three rules:

1. **Collapsed.** An epoch is collapsed if its PGD accuracy is below `COLLAPSED` of its *level*, by more than the noise
   of `n` images. The level is the best running median of three over the last `RECENT` epochs outside episodes. A single
   outlier does not raise it, and it follows the slow decline of robust overfitting, which is therefore not a collapse.
   The run must have been robust: the level exceeds chance by `ROBUST_ABOVE_CHANCE`.
2. **Extent.** An episode starts where the fall starts, at the first of the consecutive epochs below `FALLING` of the
   level. It ends before PGD accuracy is above `COLLAPSED` of the level at two logged epochs in a row (one suffices at
   the end of the log). The level is fixed during an episode, so that a slow recovery does not change it. A fall that
   starts where the last one ended continues it.
3. **Outrun.** Averaged over the interval and relative to their own levels, both accuracy under the training attack and
   clean accuracy exceed PGD accuracy by `MARGIN`. A fall that all three share is a glitch or divergence, not
   catastrophic overfitting. Averages are needed because FGSM and clean accuracy may fall along with PGD in the first
   epochs of a collapse.

Accuracy on training images under the training attack, if given as `train`, is additional evidence for rule 3: a *rise*
by `MARGIN` suffices, even if clean accuracy falls to chance (a network that infers the class from the perturbation
alone). A constant value is no evidence, since a glitch on test images does not change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

COLLAPSED = 2 / 3
"""Share of the level below which PGD accuracy has collapsed; 0.82 remain in robust overfitting on CIFAR-10 and SVHN."""

FALLING = 0.85
"""Share of the level below which PGD accuracy is falling if a collapse follows; it determines the start."""

MARGIN = 0.15
"""Difference of shares by which training-attack and clean accuracy must exceed PGD accuracy."""

RECENT = 20
"""Number of epochs outside episodes that determine the level."""

ROBUST_ABOVE_CHANCE = 0.05
"""Least accuracy above chance of a robust run."""

Z = 4.0
"""Number of standard errors of a significant difference; large, since the worst of many epochs is tested."""

Z_LEVEL = 3.0
"""Number of standard errors by which a level must exceed chance; below `Z`, since a level is a median of three."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Episode:
    """An interval of epochs in which robust accuracy has collapsed while accuracy under the training attack has not.

    Attributes:
        start: First epoch of the fall.
        end: Last epoch before recovery; None if the log ends first.
        level: PGD accuracy before the fall (best running median of three).
        lowest: Lowest PGD accuracy of the episode.
    """

    start: int
    end: int | None
    level: float = field(default=float("nan"), repr=False, compare=False)
    lowest: float = field(default=float("nan"), repr=False, compare=False)


@dataclass(frozen=True)
class Curves:
    """Accuracies in [0, 1] per logged epoch, of equal length; NaN where not measured.

    Attributes:
        epochs: Epoch numbers, increasing.
        clean: Accuracy on unperturbed test images.
        fgsm: Accuracy under the single-step (training) attack.
        pgd: Accuracy under PGD.
        train: Accuracy on training images under the training attack.
        n: Number of images of the accuracies.
        chance: Accuracy of guessing; 0 if unknown.
    """

    epochs: NDArray[np.int64]
    clean: Floats
    fgsm: Floats
    pgd: Floats
    train: Floats
    n: int
    chance: float

    def per(self, epochs: int, least: int) -> int:
        """Return the number of logged epochs in `epochs` epochs, at least `least`."""
        step = float(np.median(np.diff(self.epochs))) if len(self.epochs) > 1 else 1.0
        return max(least, round(epochs / step))


@dataclass(frozen=True)
class Fall:
    """An interval of collapsed epochs, which may be an episode.

    Attributes:
        first: Index of the first logged epoch.
        last: Index of the last logged epoch.
        level: PGD accuracy before the fall.
        before: Indices of earlier logged epochs outside falls.
        outrun: Whether training-attack and clean accuracy exceed PGD accuracy (rule 3).
    """

    first: int
    last: int
    level: float
    before: tuple[int, ...]
    outrun: bool


def running_median(values: Sequence[float] | Floats) -> Floats:
    """Compute the median of each value and the two before it; the lower one of only two."""
    return np.array([sorted(values[max(0, i - 2) : i + 1])[min(i, 2) // 2] for i in range(len(values))])


def level(values: Floats) -> float:
    """Return the best running median of three measured values; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(running_median(known).max()) if len(known) else float("nan")


def noise(a: float, b: float, n: int, z: float = Z) -> float:
    """Return `z` standard errors of the difference between two accuracies on `n` images each.

    Images are treated as independent. If both accuracies are measured on the same images, the bound is conservative.
    """
    return z * float(np.sqrt((a * (1 - a) + b * (1 - b)) / n))


def is_robust(accuracy: float, chance: float, n: int) -> bool:
    """Return whether PGD accuracy exceeds chance by `ROBUST_ABOVE_CHANCE` and by more than noise."""
    return accuracy - chance >= max(ROBUST_ABOVE_CHANCE, noise(accuracy, 0.0, n, Z_LEVEL))


def find_falls(curves: Curves) -> list[Fall]:
    """Find all intervals of collapsed epochs (rules 1 and 2), in order, with the result of rule 3.

    Args:
        curves: Curves with `pgd` at every epoch.

    Returns:
        The intervals, which do not overlap.
    """
    pgd = curves.pgd
    window = curves.per(RECENT, least=3)
    falls: list[Fall] = []
    outside: list[int] = []
    i = 0
    while i < len(pgd):
        reference = level(pgd[outside[-window:]])
        if not _collapsed(pgd[i], reference, curves):
            outside.append(i)
            i += 1
            continue
        first = i
        while outside and outside[-1] == first - 1 and pgd[first - 1] < FALLING * reference:
            first = outside.pop()
        before = tuple(outside[-window:])
        if falls and falls[-1].last == first - 1:
            first, reference, before = falls[-1].first, falls[-1].level, falls[-1].before
            falls.pop()
        last = _last_collapsed(pgd, i, COLLAPSED * reference)
        falls.append(Fall(first, last, reference, before, _outrun(curves, first, last, reference, before)))
        i = last + 1
    return falls


def episodes_of(falls: Sequence[Fall], curves: Curves) -> list[Episode]:
    """Return the episodes: falls that satisfy rule 3."""
    return [
        Episode(
            start=int(curves.epochs[fall.first]),
            end=None if fall.last == len(curves.epochs) - 1 else int(curves.epochs[fall.last]),
            level=fall.level,
            lowest=float(curves.pgd[fall.first : fall.last + 1].min()),
        )
        for fall in falls
        if fall.outrun
    ]


def _collapsed(accuracy: float, reference: float, curves: Curves) -> bool:
    """Apply rule 1; False without a reference (NaN)."""
    return (
        accuracy < COLLAPSED * reference
        and reference - accuracy > noise(reference, accuracy, curves.n)
        and is_robust(reference, curves.chance, curves.n)
    )


def _last_collapsed(pgd: Floats, i: int, threshold: float) -> int:
    """Return the last index from `i` on before `pgd` is above the threshold at two logged epochs in a row."""
    while (pgd[i + 1 : i + 3] < threshold).any():
        i += 1
    return i


def _outrun(curves: Curves, first: int, last: int, reference: float, before: Sequence[int]) -> bool:
    """Apply rule 3 to curves that are measured before and during the fall; clean accuracy is optional."""
    pgd_share = float(curves.pgd[first : last + 1].mean()) / reference

    def share(values: Floats) -> float:
        """Return the mean during the fall relative to the level before; 0 at chance, NaN if not measured."""
        during = values[first : last + 1]
        during = during[~np.isnan(during)]
        base = level(values[list(before)])
        if not len(during) or not base > 0:
            return float("nan")
        mean = float(during.mean())
        return mean / base if mean - curves.chance > noise(curves.chance, mean, curves.n) else 0.0

    clean, fgsm, train = share(curves.clean), share(curves.fgsm), share(curves.train)
    if train >= max(1 + MARGIN, pgd_share + MARGIN):
        return True
    if clean < pgd_share + MARGIN:
        return False
    if np.isnan(fgsm) and np.isnan(train):
        return bool(clean >= pgd_share + MARGIN)
    return bool(fgsm >= pgd_share + MARGIN)

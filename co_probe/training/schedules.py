"""Learning-rate schedules: progress of training -> share of the peak rate, both in [0, 1].

They are functions of progress instead of objects with state, as in PyTorch, so that resuming needs no state, epochs may
differ in steps, and methods can follow the schedule. Schedules that PyTorch has give the same learning rates.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from co_probe.config.registry import Registry

Schedule = Callable[[float], float]

SCHEDULES = Registry(
    "schedule",
    {
        "linear": "co_probe.training.schedules:linear",
        "triangular": "co_probe.training.schedules:triangular",
        "piecewise": "co_probe.training.schedules:piecewise",
        "constant": "co_probe.training.schedules:constant",
        "cosine": "co_probe.training.schedules:cosine",
        "one-cycle": "co_probe.training.schedules:one_cycle",
    },
)


def triangular(*, peak: float = 0.5) -> Schedule:
    """Make a schedule that rises linearly from 0 to 1 at the share `peak` and falls to 0 ("cyclic" in papers).

    Raises:
        ValueError: `peak` is not between 0 and 1.

    Reference:
        Wong et al. (2020), section 5.
    """
    if not 0 < peak < 1:
        raise ValueError(f"peak must be between 0 and 1, not {peak:g}")
    return lambda t: t / peak if t < peak else (1 - t) / (1 - peak)


def piecewise(*, drops: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Schedule:
    """Make a schedule that starts at 1 and is multiplied by `factor` at each of the shares `drops` of training.

    Raises:
        ValueError: A drop is not between 0 and 1.

    Reference:
        Rice et al. (2020), section 3; defaults as `--lr-schedule piecewise` in their code, robust_overfitting.
    """
    if not all(0 < drop < 1 for drop in drops):
        raise ValueError(f"drops must be between 0 and 1, not {list(drops)}")
    return lambda t: factor ** bisect_right(sorted(drops), t)


def linear(*, at: Sequence[float], share: Sequence[float]) -> Schedule:
    """Make a schedule that interpolates linearly between `share`[i] at `at`[i].

    Args:
        at: Increasing times from 0 to the end of training, in any unit, such as epochs.
        share: Shares of the peak at these times.

    Raises:
        ValueError: `at` does not increase from 0, or the lengths differ.

    Reference:
        Wong et al. (2020), learning rates of their ImageNet configurations.
    """
    if len(at) != len(share) or len(at) < 2 or at[0] != 0 or any(a >= b for a, b in pairwise(at)):
        raise ValueError("at must rise from 0 to the end of training, and share have as many numbers")
    return lambda t: float(np.interp(t * at[-1], at, share))


def constant() -> Schedule:
    """Make a schedule that is 1 throughout."""
    return lambda t: 1.0


def cosine(*, warmup: float = 0.0, end: float = 0.0) -> Schedule:
    """Make a schedule of half a cosine from 1 to `end`, after a linear rise from 0 over the share `warmup`.

    Raises:
        ValueError: `warmup` or `end` is not at least 0 and less than 1.

    Reference:
        Loshchilov & Hutter (2017), "SGDR", without restarts; PyTorch's `CosineAnnealingLR` after `LinearLR`.
    """
    for name, value in (("warmup", warmup), ("end", end)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and less than 1, not {value:g}")
    return lambda t: t / warmup if t < warmup else _annealed(1, end, (t - warmup) / (1 - warmup))


def one_cycle(*, peak: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Schedule:
    """Make a schedule of half a cosine from 1/`div_factor` to 1 at the share `peak`, and another one down.

    It ends at 1/(`div_factor` · `final_div_factor`). Momentum is constant.

    Raises:
        ValueError: `peak` is not between 0 and 1, or a factor is less than 1.

    Reference:
        Smith & Topin (2019), "Super-convergence"; PyTorch's `OneCycleLR` with `cycle_momentum=False`.
    """
    if not 0 < peak < 1:
        raise ValueError(f"peak must be between 0 and 1, not {peak:g}")
    for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
        if not value >= 1:
            raise ValueError(f"{name} must be at least 1, not {value:g}")
    start = 1 / div_factor
    end = start / final_div_factor
    return lambda t: _annealed(start, 1, t / peak) if t < peak else _annealed(1, end, (t - peak) / (1 - peak))


def _annealed(start: float, end: float, progress: float) -> float:
    """Interpolate from `start` to `end` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def warmup(step: int, steps: int) -> float:
    """Return the share of ε at `step` (from 1): min(1, step/`steps`), which is never 0, as attacks require ε > 0."""
    return min(1.0, step / steps) if steps else 1.0

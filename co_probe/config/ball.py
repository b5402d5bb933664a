"""Validation of ε and its norm."""

import math

from co_probe.config.labels import NORMS
from co_probe.errors import UserError, unknown


def check_ball(epsilon: float, norm: str, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
    """Raise an error for an implausible norm bound.

    Args:
        epsilon: Norm bound, in units of the images.
        norm: Norm that it bounds, `linf` or `l2`.
        bounds: Least and greatest pixel value.

    Raises:
        UserError: The norm is unknown, ε is not a positive number, or, in L∞, it exceeds the range of pixels.
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise UserError(f"epsilon must be greater than 0, not {epsilon:g}")
    if norm == "linf" and epsilon > (width := bounds[1] - bounds[0]):
        raise UserError(
            f"epsilon is in units of the images, and {epsilon:g} is more than {width:g}: did you mean {epsilon:g}/255?"
        )

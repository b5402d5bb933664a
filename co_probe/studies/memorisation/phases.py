"""Detection of the phases of robust memorisation."""

from collections.abc import Sequence

import numpy as np


def memorisation_phases(
    signal: Sequence[float], noise: Sequence[float], robust: Sequence[float]
) -> tuple[int, int] | None:
    """Find the epochs at which phases II and III of robust memorisation begin.

    A run ends in robust memorisation if it is robust on at least 99% of its training images at its last epoch, and its
    noise component is above its signal component then. Of the rise of the noise component from its first value to its
    last, phase II (noise is memorised, the signal stalls) begins when the component stays above a tenth, phase III
    (all is memorised) when it stays above nine tenths. Phase I (the signal is learned) is what comes before.

    Args:
        signal: The greater signal component of the two classes, one number per epoch.
        noise: The mean noise component of the images, one number per epoch.
        robust: Robust training accuracy, in [0, 1], one number per epoch.

    Returns:
        The indices (from 0) of the two epochs, or None for a run that does not end in robust memorisation.

    Raises:
        ValueError: If the lengths differ.
    """
    s, n, r = (np.asarray(values, dtype=float) for values in (signal, noise, robust))
    if not s.shape == n.shape == r.shape:
        raise ValueError("signal, noise and robust must have one number for each epoch")
    if not len(n) or r[-1] < 0.99 or n[-1] <= s[-1] or n[-1] <= n[0]:
        return None
    rise = (n - n[0]) / (n[-1] - n[0])
    begins = [int(np.flatnonzero(rise < share)[-1]) + 1 for share in (0.1, 0.9)]
    return begins[0], begins[1]

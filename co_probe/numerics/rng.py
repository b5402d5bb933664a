"""Random generators derived from a seed and a purpose.

Every stream of random numbers in a run is seeded by the run's seed, a purpose and an epoch. No generator state is
carried over between epochs, so a resumed run draws the same numbers as an uninterrupted one.
"""

import zlib

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Derive a 63-bit seed for one purpose, independent of those for others (numpy's SeedSequence)."""
    entropy = [seed, zlib.crc32(purpose.encode()), *numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def make_rng(device: torch.device | str, seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """Make a generator on `device`, seeded for one purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *numbers))

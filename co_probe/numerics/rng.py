"""Random numbers as a function of what they are for.

Every stream of random numbers in a run is seeded by the run's seed, a purpose and an epoch. Nothing random is
carried from epoch to epoch, so a resumed run draws what an uninterrupted one would have drawn.
"""

import zlib

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose, independent (in the sense of numpy's SeedSequence) of those for others."""
    entropy = [seed, zlib.crc32(purpose.encode()), *numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def make_rng(device: torch.device | str, seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A generator on `device`, seeded for one purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *numbers))

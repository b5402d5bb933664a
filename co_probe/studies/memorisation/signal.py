"""Estimation of the signal direction of `patches` from its images."""

import torch
from torch import Tensor

TOLERANCE = 1e-5  # relative; images are float64, or float32 after they were stored so


def find_signal(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Find the signal w* of images that each have one patch c·y·w*, with the same c > 0.

    w* is the only direction that occurs, up to the sign of the class, as a patch of every image, because noise differs
    between images. Neither the seed of the data nor a model is needed.

    Args:
        x: Images of `patches`, (B, d, P, 1), with B ≥ 2 and d ≥ 2.
        y: Classes, (B,): 0 for y = −1, 1 for y = +1.

    Returns:
        The unit vector w*, (d,), and the index of the signal patch of each image, (B,). None if there is no such
        direction, or more than one.
    """
    patches = x.flatten(2).transpose(1, 2)  # (B, P, d)
    signs = (2 * y - 1).to(x)[:, None, None]
    signed = patches * signs
    if len(x) >= 2 and x.shape[1] >= 2 and bool(((y == 0) | (y == 1)).all()):
        candidates = signed[0]  # (P, d): one of the patches of the first image is the signal
        apart = torch.cdist(candidates, signed, compute_mode="donot_use_mm_for_euclid_dist")  # (B, P, P)
        lengths = candidates.norm(dim=1)
        same = (apart <= TOLERANCE * lengths[:, None]) & (lengths[:, None] > 0)
        found = (same.sum(2) == 1).all(0)  # candidates that occur once in every image
        if int(found.sum()) == 1:
            which = int(found.nonzero())
            return candidates[which] / lengths[which], same[:, which].long().argmax(1)
    return None

"""The direction that tells the classes of `patches` apart, read off the images."""

import torch
from torch import Tensor

TOLERANCE = 1e-5  # relative; images are float64, or float32 after they were stored so


def find_signal(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """The signal w* of images of which each has one patch c·y·w*, with the same c > 0 in all of them.

    w* is the one direction that a patch of every image has, up to the sign that its class gives it; noise differs
    from image to image. So neither the seed of the data nor a model has to be known.

    Args:
        x: Images of `patches`, (B, d, P, 1), B at least 2 and d at least 2.
        y: Their classes, (B,): 0 stands for y = −1, 1 for y = +1.

    Returns:
        w*, (d,) of length 1, and the index of the patch that carries it in each image, (B,). None if there is no such
        direction, or more than one.
    """
    patches = x.flatten(2).transpose(1, 2)  # (B, P, d)
    signs = (2 * y - 1).to(x)[:, None, None]
    signed = patches * signs
    if len(x) >= 2 and x.shape[1] >= 2 and bool(((y == 0) | (y == 1)).all()):
        candidates = signed[0]  # (P, d): the signal is one of the patches of the first image
        apart = torch.cdist(candidates, signed, compute_mode="donot_use_mm_for_euclid_dist")  # (B, P, P)
        lengths = candidates.norm(dim=1)
        same = (apart <= TOLERANCE * lengths[:, None]) & (lengths[:, None] > 0)
        found = (same.sum(2) == 1).all(0)  # candidates that every image has once
        if int(found.sum()) == 1:
            which = int(found.nonzero())
            return candidates[which] / lengths[which], same[:, which].long().argmax(1)
    return None

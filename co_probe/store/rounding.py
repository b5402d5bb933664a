"""What a method keeps for single images, rounded to a bit or two a number: an epoch's file is hardly more than weights.

On the disk: `values`, float32, the few that the rounded numbers take; `shape` of the whole, (n, C, H, W) say; and
`packed`, bytes, deflated. A number is the place of its value in `values`; so many places as fit are the digits of one
byte in base len(values), the lowest first, and numbers follow each other with channels last: (n, H, W, C).
"""

import math
import zlib
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np

from co_probe.store import tree

MAX_BITS = 2.13  # a number: of 1,000 images of 3×32×32, 2% of PreActResNet18's parameters less what else there is
LEVELS = (255, 127, 63, 31, 15, 11, 7, 5, 3)  # odd: 0 lies in the middle of one. Three of them always fit: 1.6 bits


def rounded(state: np.ndarray | tree.Rows) -> dict[str, np.ndarray]:
    """What to store for `state`: numbers of any shape, images first. `restored` gives them back.

    [-m, m], with m the largest size of a number, is cut into equal parts, the most of LEVELS that deflate to no more
    than MAX_BITS; each number becomes the mean of those in its part. So it is off by less than 2m/levels, and 2m/3 at
    the most. What is not finite, and what is not floating-point, is stored as it is.

    What that comes to, measured on 1,000 CIFAR-10 images of runs by `cifar10-30` on 3,000 images (JPEG copies; a
    pre-activation ResNet of width 8 and two blocks; 4 to 12 epochs):
    - APART's ω is nearly always -1, 0 or 1, or one of few values between them: 255 levels in most epochs, and 31 in
      the worst but one, whose step sizes had ratio 1.6 (0.9 to 2.1 bits; off by 0.06 at most, RMS 0.01). In one epoch
      of step sizes that changed quickly 7 levels fitted (off by 0.16 at most, RMS 0.05).
    - ATTA's δ of one step is at -ε, -ε/2, 0, ε/2, ε but for its start noise and the clipping of pixels: 5 to 15 levels
      (1.7 to 2.1 bits; off by 0.40 ε at most, RMS 0.04 ε), but in one epoch of twelve that 5 did not fit, 3 (off by
      0.42 ε at most, RMS 0.23 ε). Of three steps the worst epoch had RMS 0.11 ε; of ten, most had 255 levels.
    - `gap --generator method --split train`, in nats, against exact numbers: ATTA's moved by at most 0.0006 (0.081 ±
      0.0017), in that one epoch by 0.0017 (0.027 ± 0.0009; 0.069 without what is kept), APART's by at most 0.0001
      (0.064 ± 0.0019; 0.138 without).
    """
    state = np.asarray(state[...])
    if not (state.size and np.issubdtype(state.dtype, np.floating) and np.isfinite(state).all()):
        return {"state": state}

    def fits(levels: int) -> bool:
        packed = _pack(_places(state, levels), levels)
        return 8 * len(zlib.compress(packed, tree.DEFLATE_LEVEL)) <= MAX_BITS * state.size

    # Finer ones deflate to more.
    levels = LEVELS[bisect_left(LEVELS[:-1], True, key=fits)]
    places = _places(state, levels)
    counts, sums = np.zeros(levels), np.zeros(levels)
    for image, numbers in zip(places, state, strict=True):  # one at a time: these take much memory
        counts += np.bincount(image.ravel(), minlength=levels)
        sums += np.bincount(image.ravel(), numbers.ravel(), minlength=levels)
    return {
        "packed": _pack(places, levels).view(tree.Deflated),
        "values": (sums / counts.clip(min=1)).astype(np.float32),
        "shape": np.array(state.shape),
    }


def restored(stored: Mapping[str, Any]) -> np.ndarray | None:
    """The numbers, float32, of what `rounded` made, or None if there are none.

    Earlier versions stored them as they were, as `state`. Raises KeyError or ValueError if it is something else.
    """
    if "packed" not in stored:
        return stored.get("state")
    packed, values = np.asarray(stored["packed"]), np.asarray(stored["values"])
    shape = tuple(int(length) for length in stored["shape"])
    if packed.dtype != np.uint8 or values.ndim != 1 or not 2 <= len(values) <= 256:
        raise ValueError("what is kept for images is not packed as it should be")
    if packed.shape != (math.ceil(math.prod(shape) / _digits(len(values))),):
        raise ValueError(f"what is kept for images is not of the shape {shape}")
    return values[_unpack(packed, len(values), shape)]


def _places(state: np.ndarray, levels: int) -> np.ndarray:
    """In which of so many equal parts of [-m, m] each number lies, from 0, uint8."""
    largest = np.abs(state).max() or 1.0
    return np.minimum((state / largest * (levels / 2) + levels / 2).astype(np.uint8), levels - 1)


def _digits(levels: int) -> int:
    """How many places fit into a byte."""
    return next(count for count in range(8, 0, -1) if levels**count <= 256)


def _pack(places: np.ndarray, levels: int) -> np.ndarray:
    # Channels last: those of a pixel are alike, and so are bytes of them, of which deflate makes use.
    flat, count = np.moveaxis(places, 1, -1).ravel() if places.ndim > 1 else places, _digits(levels)
    digits = np.pad(flat, (0, -len(flat) % count)).reshape(-1, count)
    packed = np.zeros(len(digits), np.uint8)
    for digit in digits.T[::-1]:
        packed = packed * np.uint8(levels) + digit
    return packed


def _unpack(packed: np.ndarray, levels: int, shape: tuple[int, ...]) -> np.ndarray:
    digits = [packed // np.uint8(levels**power) % np.uint16(levels) for power in range(_digits(levels))]
    flat = np.stack(digits, axis=1).ravel()[: math.prod(shape)]
    if len(shape) > 1:
        return np.ascontiguousarray(np.moveaxis(flat.reshape(shape[0], *shape[2:], shape[1]), -1, 1))
    return flat.reshape(shape)

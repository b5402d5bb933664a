"""Per-image state of a method as eight-bit integers: at most a tenth of an epoch's file instead of half.

On the disk: `integers`, int8 of the shape of the whole, (n, C, H, W) say, deflated; `scale`, a number. A value is its
integer times `scale`. Files of schema 2 hold another form, and those of schema 1 the numbers as they were.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from co_probe.store import tree

LARGEST = 127  # of the integers, on either side of 0
MOST_PACKED = 2**26  # values in a file of schema 2


def rounded(state: np.ndarray | tree.Rows) -> dict[str, Any]:
    """Return what to store for `state`; `restored` is the inverse.

    Args:
        state: Numbers of any shape, images first. A value comes back with an error of at most m/254, where m is the
            largest magnitude. Values that are not finite or not floating point are stored as they are.
    """
    state = np.asarray(state[...])
    if not (state.size and np.issubdtype(state.dtype, np.floating) and np.isfinite(state).all()):
        return {"state": state}
    scale = float(np.abs(state).max()) / LARGEST or 1.0
    return {"integers": np.rint(state / scale).astype(np.int8).view(tree.Deflated), "scale": scale}


def restored(stored: Mapping[str, Any]) -> np.ndarray | None:
    """Return the numbers, float32, of what `rounded` made, or None if there are none.

    Raises:
        KeyError, TypeError, ValueError: It is something else.
    """
    if "packed" in stored:
        return _unpacked(stored)
    if "integers" not in stored:
        return stored.get("state")
    integers, scale = np.asarray(stored["integers"]), stored["scale"]
    if integers.dtype != np.int8 or not isinstance(scale, float) or not 0 < scale < math.inf:
        raise ValueError("what is kept for images is not eight-bit integers and their scale")
    return integers.astype(np.float32) * np.float32(scale)


def _unpacked(stored: Mapping[str, Any]) -> np.ndarray:
    """Return the numbers of a file of schema 2.

    There, `values` are the few that occur, and `packed` has as many positions in them per byte as fit, digits in base
    len(values), lowest first; numbers follow each other with channels last, (n, H, W, C). `shape` is (n, C, H, W).
    """
    packed, values = np.asarray(stored["packed"]), np.asarray(stored["values"])
    shape = tuple(int(length) for length in stored["shape"])
    if packed.dtype != np.uint8 or values.ndim != 1 or not 2 <= len(values) <= 256:
        raise ValueError("what is kept for images is not packed as schema 2 does")
    levels = len(values)
    digits = next(count for count in range(8, 0, -1) if levels**count <= 256)
    if (
        not shape
        or min(shape) < 0
        or math.prod(shape) > MOST_PACKED
        or packed.shape != (math.ceil(math.prod(shape) / digits),)
    ):
        raise ValueError(f"what is kept for images is not of the shape {shape}")
    places = np.stack([packed // np.uint8(levels**power) % np.uint16(levels) for power in range(digits)], axis=1)
    flat = places.ravel()[: math.prod(shape)]
    if len(shape) > 1:
        flat = np.moveaxis(flat.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    return values[np.ascontiguousarray(flat)]

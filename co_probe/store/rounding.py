"""Rounding of per-image state to eight-bit integers: at most a tenth of an epoch's file instead of half.

Stored are `integers`, deflated int8 of the original shape, such as (n, C, H, W), and the number `scale`. A value is its
integer times `scale`. Files of schema 2 have another format, and those of schema 1 the original numbers.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from co_probe.store import tree

LARGEST = 127  # greatest magnitude of the integers
MOST_PACKED = 2**26  # greatest number of values in a file of schema 2


def rounded(state: np.ndarray | tree.Rows) -> dict[str, Any]:
    """Convert `state` to its stored form; `restored` is the inverse.

    Args:
        state: Numbers of any shape, with images first. The rounding error is at most m/254, where m is the largest
            magnitude. Non-finite values and integers are stored unchanged.
    """
    state = np.asarray(state[...])
    if not (state.size and np.issubdtype(state.dtype, np.floating) and np.isfinite(state).all()):
        return {"state": state}
    scale = float(np.abs(state).max()) / LARGEST or 1.0
    return {"integers": np.rint(state / scale).astype(np.int8).view(tree.Deflated), "scale": scale}


def restored(stored: Mapping[str, Any]) -> np.ndarray | None:
    """Convert the result of `rounded` back to float32; None if it is empty.

    Raises:
        KeyError, TypeError, ValueError: The stored form is invalid.
    """
    if "packed" in stored:
        return _unpacked(stored)
    if "integers" not in stored:
        return stored.get("state")
    integers, scale = np.asarray(stored["integers"]), stored["scale"]
    if integers.dtype != np.int8 or not isinstance(scale, float) or not 0 < scale < math.inf:
        raise ValueError("image states are not eight-bit integers with a scale")
    return integers.astype(np.float32) * np.float32(scale)


def _unpacked(stored: Mapping[str, Any]) -> np.ndarray:
    """Decode the numbers in a file of schema 2.

    `values` are the distinct values, and each byte of `packed` holds as many indices into them as fit, as digits in
    base len(values), lowest first, in the order (n, H, W, C). `shape` is (n, C, H, W).
    """
    packed, values = np.asarray(stored["packed"]), np.asarray(stored["values"])
    shape = tuple(int(length) for length in stored["shape"])
    if packed.dtype != np.uint8 or values.ndim != 1 or not 2 <= len(values) <= 256:
        raise ValueError("image states are not packed as in schema 2")
    levels = len(values)
    digits = next(count for count in range(8, 0, -1) if levels**count <= 256)
    if (
        not shape
        or min(shape) < 0
        or math.prod(shape) > MOST_PACKED
        or packed.shape != (math.ceil(math.prod(shape) / digits),)
    ):
        raise ValueError(f"image states do not have the shape {shape}")
    places = np.stack([packed // np.uint8(levels**power) % np.uint16(levels) for power in range(digits)], axis=1)
    flat = places.ravel()[: math.prod(shape)]
    if len(shape) > 1:
        flat = np.moveaxis(flat.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    return values[np.ascontiguousarray(flat)]

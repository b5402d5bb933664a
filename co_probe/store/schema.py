"""Schema of a run's files, which is validated on reading.

Each function validates a tree (`co_probe.store.tree.read`) and returns its content.

Raises:
    KeyError, TypeError, ValueError: The tree is invalid.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from co_probe.store import rounding, table

FORMER_NAMES = {"own": "train_attack", "validation_own": "validation_train_attack"}
"""Former name -> name of metrics."""

ACCURACIES = ("clean", "fgsm", "pgd10", "train_attack")
# Accuracies on test images of the probe set, and on validation images.
PROPORTIONS = (*ACCURACIES, *(f"validation_{name}" for name in ACCURACIES))
SHARES = (*PROPORTIONS, "train_accuracy")
# Metrics of training, which do not depend on the measured weights.
OF_TRAINING = ("learning_rate", "train_loss", "train_accuracy", "seconds")
AVERAGED = "ema_"  # prefix of metrics of averaged weights
MOST_EPOCHS = 1_000_000  # as in the settings of a run
LABELS = ("run", "method", "seed", "epoch", "probe")  # first columns of every table
RESULTS = ("quantity", "value", "low", "high", "n")  # last columns
OUTCOMES = ("attack", "version", "start", "size", "correct")  # instead, in a table of outcomes of single images
# Columns with the same meaning in all tables, and their numpy kinds.
COLUMNS = {
    **dict.fromkeys(("run", "method", "probe", "quantity", "attack", "version", "correct"), "S"),
    **dict.fromkeys(("reference", "reference_id", "generator", "against", "split"), "S"),
    **dict.fromkeys(("seed", "epoch", "start", "size"), "iu"),
    **dict.fromkeys(("value", "low", "high", "n", "epsilon", "row", "column"), "iuf"),
    "suspicious": "biu",
}
RANGES = {"seed": (-1, 2**63), "epoch": (0, MOST_EPOCHS), "n": (0, 2**53), "start": (0, 2**31), "size": (0, 2**31)}


def json_object(text: Any) -> dict[str, Any]:
    """Parse a JSON object."""
    content = json.loads(text)
    require(isinstance(content, dict), "what should be a JSON object", content)
    return content


def whole(value: Any, name: str, least: int, most: int = 2**63) -> int:
    """Return `value` if it is an integer from `least` to `most`."""
    require(type(value) is int and least <= value <= most, name, value)
    return value


def check_weights(weights: Any, group: str = "model") -> dict[str, np.ndarray]:
    """Return the group `model` or `ema` of an epoch: arrays of numbers."""
    for name, value in _group(weights, group).items():
        require(isinstance(value, np.ndarray) and value.dtype.kind in "biuf", f"the weight {name}", value)
    return weights


def check_metrics(metrics: Any) -> dict[str, float]:
    """Return the group `metrics` of an epoch: finite numbers, accuracies in [0, 1], with current names."""
    metrics = {FORMER_NAMES.get(name, name): value for name, value in _group(metrics, "metrics").items()}
    for name, value in metrics.items():
        require(_is_finite(value), f"the metric {name}", value)
        require(name.removeprefix(AVERAGED) not in SHARES or 0 <= value <= 1, f"the accuracy {name}", value)
    return {name: float(value) for name, value in metrics.items()}


def check_method(method: Any) -> dict[str, dict[str, float]]:
    """Return the group `method` of an epoch: groups of numbers."""
    for group, values in _group(method, "method").items():
        for name, value in _group(values, f"method/{group}").items():
            require(isinstance(value, int | float), f"the parameter {name} of the method", value)
    return method


def check_steps(steps: Any) -> dict[str, np.ndarray]:
    """Return the group `steps` of an epoch: series, float32 (steps,), which may contain NaN."""
    for name, values in _group(steps, "steps").items():
        fits = isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype == np.float32
        require(fits, f"the step series {name}", values)
    return steps


def check_images(images: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the per-image state in the group `images` of an epoch; None if there is none.

    Args:
        images: The group.
        shape: Shape of its images, (n, C, H, W); only (n,) for schema 1 and 2.
    """
    state = rounding.restored(_group(images, "images"))
    if state is not None:
        fits = isinstance(state, np.ndarray) and state.dtype.kind in "biuf" and state.shape[: len(shape)] == shape
        require(fits, f"the state of images of shape {shape}", state)
    return state


def check_epoch(epoch: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return a whole epoch; `shape` as in `check_images`."""
    check_weights(epoch["model"])
    check_metrics(epoch["metrics"])
    check_method(epoch["method"])
    check_images(epoch["images"], shape)
    check_steps(epoch.get("steps", {}))
    if "ema" in epoch:
        check_weights(epoch["ema"], "ema")
    return epoch


def check_resume(state: dict[str, Any]) -> dict[str, Any]:
    """Return the groups of a resume file; model and method check later whether they fit."""
    groups = {name: value for name, value in state.items() if name not in ("run_id", "epoch")}
    for name, group in groups.items():
        _check_numbers(_group(group, name))
    return groups


def _check_numbers(group: Mapping[str, Any]) -> None:
    """Raise ValueError if an array in a group or its subgroups is not numeric."""
    for name, value in group.items():
        if isinstance(value, Mapping):
            _check_numbers(value)
        require(not isinstance(value, np.ndarray) or value.dtype.kind in "biuf", name, value)


def check_probe(
    probe: Any, shape: tuple[int, int, int], classes: int, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a split, bytes or floats, and their labels, int64.

    Floats may exceed the bounds by their width, since studies may add a signal without clipping.

    Args:
        probe: The group.
        shape: Shape of an image, (C, H, W).
        classes: Number of classes.
        bounds: Least and greatest value of a pixel.
    """
    images, labels = _group(probe, "of probe images")["images"], probe["labels"]
    fits = isinstance(images, np.ndarray) and (images.dtype == np.uint8 or images.dtype.kind == "f")
    require(fits and len(images) > 0 and images.shape[1:] == shape, f"images of shape {shape}", images)
    fits = isinstance(labels, np.ndarray) and labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    require(fits and labels.min() >= 0 and labels.max() < classes, f"labels of {classes} classes", labels)
    if images.dtype.kind == "f":
        low, high = bounds[0] - (bounds[1] - bounds[0]), bounds[1] + (bounds[1] - bounds[0])
        require(low <= float(images.min()) and float(images.max()) <= high, f"images within {bounds}", images)
        require(bool(np.isfinite(images).all()), "finite images", images)
    if "index" in probe:
        check_index(probe["index"], len(images))
    return np.asarray(images), np.asarray(labels).astype(np.int64)


def check_index(index: Any, count: int) -> np.ndarray:
    """Return numbers of images in their data set, int64 (count,)."""
    fits = isinstance(index, np.ndarray) and index.dtype.kind in "iu" and index.shape == (count,)
    require(fits and count > 0 and index.min() >= 0, "the numbers of the probe images", index)
    return np.asarray(index).astype(np.int64)


def check_table(columns: Any) -> pd.DataFrame:
    """Return the table in a group: columns of equal length, including those of every table."""
    order = list(filter(None, _group(columns, "a table")["order"].split("\n")))
    require(len(order) == len(set(order)), "the order of columns", columns["order"])
    check_columns(order, (*LABELS, *(OUTCOMES if "correct" in order else RESULTS)))
    for name in order:
        values = columns[name]
        fits = isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in COLUMNS.get(name, "biufS")
        require(fits and len(values) == len(columns[order[0]]), f"the column {name}", values)
        if name in RANGES and len(values):
            low, high = values.min(), values.max()  # NaN if any value is
            least, most = RANGES[name]
            require(bool(low >= least and high <= most), f"the column {name}", (low, high))
    if "correct" in order:
        sizes = np.char.str_len(columns["correct"])
        require(np.array_equal(sizes, columns["size"]), "outcomes of images", "of other many images")
    return table.from_tree(columns)


def check_columns(have: Collection[str], needed: Iterable[str]) -> None:
    """Raise ValueError if a table lacks a column."""
    for name in needed:
        require(name in have, "a table", f"without the column {name}")


def require(fits: bool, name: str, value: Any) -> None:
    """Raise ValueError with `value` unless it fits."""
    if not fits:
        seen = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.80}"
        raise ValueError(f"{name} cannot be {seen}")


def _group(node: Any, name: str) -> Mapping[str, Any]:
    require(isinstance(node, Mapping), f"the group {name}", node)
    return node


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

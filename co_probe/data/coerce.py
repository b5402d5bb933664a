"""Conversion of images from tensors, arrays, data sets, loaders, files or names.

Formats are not guessed: images that are not (n, C, H, W) within the bounds, and labels that do not start at 0, raise a
one-line error that says what was found and what to do.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from co_probe.data import DATA
from co_probe.data.dataset import Dataset
from co_probe.data.image_file import is_image_file, read_images
from co_probe.errors import UserError
from co_probe.numerics.rng import derive_seed

CHANNELS = (1, 3)  # usual numbers of channels
MOST_CLASSES = 100_000
NUMBERS = (
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32),
    *(torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
)


@dataclass(frozen=True)
class LabelledImages:
    """Images with their labels.

    Attributes:
        x: (n, C, H, W), uint8, or float32 within the bounds. Floats that are multiples of 1/255 become uint8, which is
            lossless.
        y: (n,) int64, from 0.
        classes: Names of the classes; None if unknown.
        source: Name of the data set or file, or None.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...] | None = None
    source: str | None = None


def coerce(
    source: Any,
    *,
    split: str = "test",
    count: int | None = None,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> LabelledImages:
    """Convert a user's images to validated tensors.

    Args:
        source: A pair (x, y) of tensors or numpy arrays; a torch data set of pairs (image, label); a `DataLoader` or
            any other iterable of such batches; a co-probe `Dataset` or the name of one; or a `.npz` or `.pt` file
            (`co_probe.data.image_file`).
        split: Part of a co-probe data set, `test` or `train`; also the name of the images in errors.
        count: Number of images to draw; None for all.
        seed: Seed of the draw; the same seed gives the same images.
        bounds: Least and greatest value of a pixel; may be infinite.

    Raises:
        UserError: The source is of another kind, or `check_images` or `check_labels` rejects its content.
    """
    name, classes = None, None
    if is_image_file(source):
        if (content := read_images(source, split)) is None:
            raise UserError(f"{source} holds no {split} images: they are called x_train and y_train")
        name, source = Path(source).name, content
    elif isinstance(source, str):
        name, source = source, DATA.make(source)
    if isinstance(source, Dataset):
        x, y = (source.test_x, source.test_y) if split == "test" else (source.train_x, source.train_y)
        classes, bounds = source.classes, source.bounds
        chosen = _draw(len(y), count, seed, split)
        x, y = (x, y) if chosen is None else (x[chosen], y[chosen])
    elif isinstance(source, tuple | list) and len(source) == 2 and all(_is_array(part) for part in source):
        x, y = (_tensor(part) for part in source)
        _same_length(x, y, split)
        chosen = _draw(len(y), count, seed, split)
        x, y = (x, y) if chosen is None else (x[chosen], y[chosen])
    elif (items := _items(source, split)) is not None:
        x, y, classes = _from_items(items, count, seed, split)
    elif isinstance(source, Iterable):
        x, y, classes = _from_batches(source, count, seed, split)
    else:
        raise UserError(
            f"{split} images must be a pair (x, y) of tensors or arrays, a data set, a DataLoader or a name, "
            f"not {type(source).__name__}"
        )
    if not len(x):
        raise UserError(f"there are no {split} images")
    hint = _normalize_hint(source)
    return LabelledImages(check_images(x, split, bounds, hint), check_labels(y, split), classes, name)


def check_images(x: Tensor, what: str, bounds: tuple[float, float] = (0.0, 1.0), hint: str = "") -> Tensor:
    """Return images as uint8 or float32, (n, C, H, W), within the bounds.

    Args:
        x: The images.
        what: Prefix of the word "images" in errors.
        bounds: Least and greatest value of a pixel.
        hint: Description of the normalisation found in the source, for errors.

    Raises:
        UserError: The axis of channels is missing or last, or values are outside the bounds.
    """
    shape = tuple(x.shape)
    if x.ndim == 3:
        raise UserError(
            f"{what} images have shape {shape}, without an axis of channels: pass x[:, None] for grey images, "
            "(n, 1, height, width)"
        )
    if x.ndim != 4 or 0 in shape:
        raise UserError(f"{what} images have shape {shape}, and (n, channels, height, width) is needed")
    if shape[3] in CHANNELS and shape[1] not in CHANNELS:
        raise UserError(
            f"{what} images have shape {shape}, with channels last: pass x.permute(0, 3, 1, 2) (numpy: "
            "x.transpose(0, 3, 1, 2)), (n, channels, height, width)"
        )
    if x.dtype.is_complex or x.dtype == torch.bool:
        raise UserError(f"{what} images are {_dtype(x)}: pass uint8, or floats in [0, 1]")
    low, high = x.min().item(), x.max().item()
    if not x.dtype.is_floating_point:
        if low < 0 or high > 255:
            raise UserError(f"{what} images are {_dtype(x)} from {low} to {high}: pass uint8, or floats in [0, 1]")
        if high <= 1:
            raise UserError(f"{what} images are {_dtype(x)} and none is above 1: pass floats, x.float(), if 1 is white")
        return x.to(torch.uint8)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{what} images have values that are not finite numbers")
    x = x.float()
    if low < bounds[0] - 1e-6 or high > bounds[1] + 1e-6:
        raise UserError(f"{what} images are floats from {low:.4g} to {high:.4g}: {_advice(low, high, bounds, hint)}")
    if bounds != (0.0, 1.0):
        return x
    levels = x.mul(255).round_()
    return levels.to(torch.uint8) if torch.equal(levels.to(torch.uint8).float().div_(255), x) else x.clamp(0, 1)


def check_labels(y: Tensor, what: str, classes: int | None = None) -> Tensor:
    """Return labels as int64, (n,), from 0.

    Args:
        y: The labels.
        what: Prefix of the word "labels" in errors.
        classes: Number of classes, if known.

    Raises:
        UserError: The labels are one-hot, not integers, or do not start at 0.
    """
    shape = tuple(y.shape)
    if y.ndim == 2 and shape[1] == 1:
        raise UserError(f"{what} labels have shape {shape}: pass y[:, 0]")
    if y.ndim == 2:
        raise UserError(f"{what} labels have shape {shape}, one-hot or probabilities: pass y.argmax(1)")
    if y.ndim != 1:
        raise UserError(f"{what} labels have shape {shape}, and (n,) is needed")
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise UserError(f"{what} labels are {_dtype(y)}: pass whole numbers from 0, y.long()")
    y = y.long()
    low, high = int(y.min()), int(y.max())
    if low < 0:
        raise UserError(f"{what} labels have {low}, and classes count from 0: remove these images, or shift the labels")
    if high >= MOST_CLASSES:
        raise UserError(f"{what} labels run up to {high}: they are the numbers of classes, from 0")
    if classes is not None and low >= 1 and high == classes:
        raise UserError(f"{what} labels run from {low} to {high}, and the {classes} classes count from 0: pass y - 1")
    if classes is not None and high >= classes:
        raise UserError(f"{what} labels run up to {high}, and the model has {classes} classes, 0 to {classes - 1}")
    return y


def _advice(low: float, high: float, bounds: tuple[float, float], hint: str) -> str:
    if bounds != (0.0, 1.0):
        return f"pass values within the bounds, {bounds[0]:g} to {bounds[1]:g}"
    if low >= 0 and 2 < high <= 255:
        return "pass uint8, or divide by 255"
    if hint:
        return f"they are normalised already, by {hint}: leave that out here and name it as the normalisation"
    return (
        "they are normalised already (or of another scale): pass images in [0, 1] and name mean and std as the "
        "normalisation"
    )


def _normalize_hint(source: Any) -> str:
    """Return the `Normalize(mean, std)` in the transform of a torchvision data set, possibly in a loader."""
    data = getattr(source, "dataset", source)
    transform = getattr(data, "transform", None)
    for step in getattr(transform, "transforms", [transform]):
        if type(step).__name__ == "Normalize":
            mean, std = ([round(float(v), 4) for v in getattr(step, part)] for part in ("mean", "std"))
            return f"Normalize({tuple(mean)}, {tuple(std)})"
    return ""


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _is_array(part: Any) -> bool:
    return isinstance(part, Tensor | np.ndarray)


def _tensor(part: Any) -> Tensor:
    """Return an array as a tensor on the CPU."""
    if isinstance(part, np.ndarray):
        if part.dtype.kind not in "biufc" or part.dtype.itemsize > 8 * (1 + (part.dtype.kind == "c")):
            raise UserError(f"an array of {part.dtype} was given, and numbers are needed")
        part = torch.from_numpy(np.array(part, part.dtype.newbyteorder("="), order="C", copy=None))
    elif part.layout != torch.strided or part.dtype not in NUMBERS:
        raise UserError(f"a tensor of {_dtype(part)} ({part.layout}) was given, and an array of numbers is needed")
    x: Tensor = part.detach().cpu()
    return x.long() if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x


def _same_length(x: Tensor, y: Tensor, what: str) -> None:
    if not (x.ndim and y.ndim):
        raise UserError(f"{what} {'labels' if x.ndim else 'images'} are one number, not an array")
    if len(x) != len(y):
        raise UserError(f"there are {len(x)} {what} images and {len(y)} labels")


def _draw(available: int, count: int | None, seed: int, what: str) -> Tensor | None:
    """Return `count` sorted indices out of `available`, or None for all."""
    if count is None or count >= available:
        return None
    chosen = np.random.default_rng(derive_seed(seed, f"probe {what}")).permutation(available)[:count]
    return torch.from_numpy(np.sort(chosen))


def _items(source: Any, what: str) -> Sequence[Any] | None:
    """Return the data set of items (image, label) in `source`, a data set or a loader with default collation."""
    from torch.utils.data import DataLoader, IterableDataset, default_collate

    data = source
    if isinstance(source, list | tuple) and source and getattr(_pair(source[0], what)[0], "ndim", 0) == 4:
        return None  # batches
    if isinstance(source, DataLoader):
        if source.collate_fn is not default_collate or isinstance(source.dataset, IterableDataset):
            return None
        data = source.dataset
    return data if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, dict) else None


def _from_items(
    items: Sequence[Any], count: int | None, seed: int, what: str
) -> tuple[Tensor, Tensor, tuple[str, ...] | None]:
    chosen = _draw(len(items), count, seed, what)
    images, labels = [], []
    for index in range(len(items)) if chosen is None else chosen.tolist():
        image, label = _pair(items[index], what)
        images.append(_image(image))
        labels.append(torch.as_tensor(label))
    return _stacked(images, what), _stacked(labels, what), _class_names(items)


def _from_batches(
    batches: Iterable[Any], count: int | None, seed: int, what: str
) -> tuple[Tensor, Tensor, tuple[str, ...] | None]:
    pairs = [tuple(_tensor(part) for part in _pair(batch, what)) for batch in _iterate(batches, what)]
    if not pairs:
        raise UserError(f"there are no {what} images")
    x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    _same_length(x, y, what)
    chosen = _draw(len(y), count, seed, what)
    x, y = (x, y) if chosen is None else (x[chosen], y[chosen])
    return x, y, _class_names(getattr(batches, "dataset", batches))


def _iterate(batches: Iterable[Any], what: str) -> Iterator[Any]:
    for batch in batches:
        if not all(_is_array(part) for part in _pair(batch, what)):
            raise UserError(f"{what} batches must be pairs (images, labels) of tensors or arrays")
        yield batch


def _pair(item: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UserError(f"items of the {what} data are {type(item).__name__}, and pairs (image, label) are needed")
    return item[0], item[1]


def _image(image: Any) -> Tensor:
    """Return an image as a tensor; a PIL image becomes uint8 (C, H, W)."""
    if _is_array(image):
        return _tensor(image)
    array = np.array(image)
    if array.dtype == object or array.ndim not in (2, 3):
        raise UserError(f"images are {type(image).__name__}: give the data set a transform, such as ToTensor()")
    return torch.from_numpy(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))


def _stacked(parts: list[Tensor], what: str) -> Tensor:
    if len({part.shape for part in parts}) > 1:
        shapes = sorted({tuple(part.shape) for part in parts})
        raise UserError(f"{what} images differ in shape, {shapes[0]} and {shapes[1]}: resize or crop them to one")
    return torch.stack(parts) if parts else torch.empty(0)


def _class_names(data: Any) -> tuple[str, ...] | None:
    """Return the attribute `classes` of a torchvision data set, possibly wrapped."""
    for owner in (data, getattr(data, "dataset", None)):
        names = getattr(owner, "classes", None)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None

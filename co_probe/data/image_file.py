"""Images and labels in one file of numpy or torch."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from co_probe.errors import UserError, listing

ENDINGS = (".npz", ".pt", ".pth")
NAMES = {
    "test": (("x", "y"), ("x_test", "y_test"), ("test_x", "test_y")),
    "train": (("x_train", "y_train"), ("train_x", "train_y")),
}


def is_image_file(source: Any) -> bool:
    """Whether `source` is the name of such a file, as against that of a data set."""
    return isinstance(source, str | Path) and str(source).endswith(ENDINGS)


def read_images(path: str | Path, split: str = "test") -> tuple[Any, Any] | None:
    """Read images and labels; nothing in the file is executed.

    Args:
        path: A `.npz` of numpy, or a `.pt` of torch that holds a dictionary, with `x` and `y`; training images are
            `x_train` and `y_train`. A `.pt` may also hold a pair (x, y).
        split: `test` or `train`.

    Returns:
        Images and labels as the file has them, arrays or tensors; None if it has no training images.

    Raises:
        UserError: There is no such file, it cannot be read, or it does not hold test images under these names.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    content = _npz(path) if path.suffix == ".npz" else _pt(path)
    for names in NAMES[split]:
        if all(name in content for name in names):
            pair = tuple(content[name] for name in names)
            for name, part in zip(names, pair, strict=True):
                if not isinstance(part, np.ndarray | torch.Tensor):
                    raise UserError(f"{path}: {name} must be an array or a tensor, not {type(part).__name__}")
            return pair
    if split == "train":
        return None
    raise UserError(
        f"{path} must hold images x and labels y, and it holds {listing(list(map(str, content))) or 'nothing'}"
    )


def _npz(path: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no .npz of numpy, or was cut off")
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = {name for pairs in NAMES.values() for pair in pairs for name in pair}
            return {name: file[name] if name in wanted else None for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a .npz of numbers: {_reason(error)}") from error


def _pt(path: Path) -> dict[Any, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no .pt, or holds other objects than tensors, which are not loaded: save a dictionary of "
            "tensors x and y"
        ) from error
    except Exception as error:  # of any kind: torch raises several
        raise UserError(f"{path} cannot be read as a .pt of tensors: {_reason(error)}") from error
    if isinstance(content, tuple | list) and len(content) == 2:
        return dict(zip("xy", content, strict=True))
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a dictionary with x and y, or a pair (x, y), not {type(content).__name__}")
    return content


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

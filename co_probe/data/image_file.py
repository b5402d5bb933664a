"""Reading images and labels from one file of numpy or torch."""

import math
import pickle
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from co_probe.data.pt_files import read_pt
from co_probe.errors import UserError, listing, one_line
from co_probe.numerics.memory import require_memory

ENDINGS = (".npz", ".pt", ".pth")
NAMES = {
    "test": (("x", "y"), ("x_test", "y_test"), ("test_x", "test_y")),
    "train": (("x_train", "y_train"), ("train_x", "train_y")),
}
FREE = 2**26  # bytes of images that are accepted from any file
MOST_COMPRESSED = 100  # greatest compression ratio of larger files; that of digits is about 10


def is_image_file(source: Any) -> bool:
    """Return whether `source` is the name of an image file, not of a data set."""
    return isinstance(source, str | Path) and str(source).endswith(ENDINGS)


def read_images(path: str | Path, split: str = "test") -> tuple[Any, Any] | None:
    """Read images and labels, without executing code, in memory proportional to the size of the file.

    Args:
        path: A `.npz` of numpy, or a `.pt` of torch with a dictionary, of `x` and `y`; training images are `x_train`
            and `y_train`. A `.pt` may also hold a pair (x, y).
        split: `test` or `train`.

    Returns:
        Images and labels as arrays or tensors; None if the file has no training images.

    Raises:
        UserError: The file is missing or unreadable, or has no test images under these names.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    return _from_npz(path, split) if path.suffix == ".npz" else _from_pt(path, split)


def _from_npz(path: Path, split: str) -> tuple[Any, Any] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist()]
            if (names := _named(path, held, split)) is None:
                return None
            entries = [archive.getinfo(f"{name}.npy") for name in names]
            _check_size(path, sum(entry.file_size for entry in entries))
            x, y = (_read_array(archive, entry) for entry in entries)
            return x, y
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no .npz of numpy, or was cut off") from error
    except PermissionError:
        raise UserError(f"{path} may not be read") from None
    except Exception as error:  # an untrusted file may cause any error
        reason = one_line((str(error).splitlines() or [type(error).__name__])[0][:300])
        raise UserError(f"{path} cannot be read as a .npz of numbers: {reason}") from error


def _check_size(path: Path, size: int) -> None:
    """Raise UserError for arrays of `size` bytes that exceed the compression limit or the memory."""
    if size > max(FREE, MOST_COMPRESSED * path.stat().st_size):
        raise UserError(f"{path} is said to hold {size} bytes of images, and has {path.stat().st_size}: it is damaged")
    require_memory(size, f"reading {path}", "store fewer images")


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Read an array of numbers; raise ValueError if its header does not match its size."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is compressed in another way than numpy does")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if dtype.kind not in "biufc":
            raise ValueError(f"{entry.filename} holds {dtype}, and numbers are needed")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
            raise ValueError(f"{entry.filename} is said to be of shape {shape}, and other many numbers are stored")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _from_pt(path: Path, split: str) -> tuple[Any, Any] | None:
    try:
        content = read_pt(path, what="file of images")
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no .pt, or holds other objects than tensors, which are not loaded: save a dictionary of "
            "tensors x and y"
        ) from error
    if isinstance(content, tuple | list) and len(content) == 2:
        content = dict(zip("xy", content, strict=True))
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a dictionary with x and y, or a pair (x, y), not {type(content).__name__}")
    if (names := _named(path, content, split)) is None:
        return None
    for name in names:
        if not isinstance(content[name], torch.Tensor):
            raise UserError(f"{path}: {name} must be a tensor, not {type(content[name]).__name__}")
    return content[names[0]], content[names[1]]


def _named(path: Path, held: Collection[Any], split: str) -> tuple[str, str] | None:
    """Find the names of images and labels of a split in a file; None if training images are missing."""
    for names in NAMES[split]:
        if all(name in held for name in names):
            return names
    if split == "train":
        return None
    said = listing([one_line(name)[:40] for name in held]) or "nothing"
    raise UserError(f"{path} must hold images x and labels y, and it holds {said}")

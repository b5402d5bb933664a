"""A folder of images, one folder per class."""

import hashlib
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from co_probe.data.dataset import Dataset
from co_probe.data.places import VARIABLE, data_dir, exclusive_lock, make_folder
from co_probe.errors import UserError
from co_probe.files.atomic import replace_atomic
from co_probe.numerics.memory import require_memory

FREE = 2**26  # bytes of pixels that are accepted from any file
MOST_COMPRESSED = 200  # greatest compression ratio of larger images; that of photographs is about 20
REPORT_EVERY = 5.0  # seconds between lines of progress
WIDE_RAW = (";16", ";16B", ";16L", ";16N", ";32F", ";32BF")  # suffixes of Pillow's raw modes of more than 8 bits
WIDE = ("I", "F")  # prefixes of Pillow's modes of more than 8 bits per channel, which conversion to RGB would clip


def image_folder(path: str, *, size: int | None = None, test_share: float = 0.2) -> Dataset:
    """Load images of any format from `path`/train/CLASS/ and `path`/test/CLASS/ (or val/).

    Images are (n, 3, height, width) uint8; grey ones become RGB. Classes and images are sorted by name; names that
    start with a dot are ignored. `mean` and `std` are those of the training pixels. Images are decoded once and cached
    in the data folder until names, sizes or times of the files change.

    Args:
        path: Absolute, or relative to the working directory or the data folder (`data_dir`). Without train/, classes
            are the folders in `path` itself, and a fixed random choice of images is for testing.
        size: Size to which the shorter side is resized bilinearly, before the central square is cropped; if None, all
            images must have the same size.
        test_share: Share of test images if there is no train/.

    Raises:
        UserError: A file is unreadable or has another size, or a class has no images. Nothing is cached then.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be positive, not {size}")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, not {test_share:g}")
    folder = find_folder(path)
    require_memory(3 * (size or 0) ** 2, f"one image at size {size}", "choose a smaller data.size")
    classes, train, test = list_images(folder, test_share)
    listing = train + test
    require_memory(
        len(listing) * 3 * (size or 0) ** 2, f"{len(listing)} images at size {size}", "choose a smaller data.size"
    )
    images = decoded(folder, listing, size)
    count = len(train)
    labels = torch.tensor([image.label for image in listing])
    mean, std = _moments(images[:count])
    return Dataset(images[:count], labels[:count], images[count:], labels[count:], classes, mean, std)


@dataclass(frozen=True)
class ImageFile:
    """An image file, the number of its class, its size in bytes and its time of change in ns."""

    path: str
    label: int
    bytes: int
    changed: int


def find_folder(path: str) -> Path:
    """Find the folder `path` in the working directory or the data folder. Raises UserError if it is in neither."""
    given = Path(path).expanduser()
    for folder in (given, data_dir() / given):
        if folder.is_dir():
            return folder.resolve()
    where = "" if given.is_absolute() else f", neither here nor in {data_dir()} ({VARIABLE})"
    raise UserError(f"{path} is not a folder{where}")


def list_images(folder: Path, test_share: float) -> tuple[tuple[str, ...], list[ImageFile], list[ImageFile]]:
    """List class names, training images and test images. Raises UserError for missing or empty folders."""
    if not (folder / "train").is_dir():
        classes, images = _list_split(folder)
        # RandomState's stream is frozen for good, so the split is the same under every version of numpy.
        order = np.random.RandomState(0).permutation(len(images))
        testing = round(test_share * len(images))
        if not 0 < testing < len(images):
            raise UserError(f"{folder} has too few images ({len(images)}) to split")
        test, train = np.sort(order[:testing]), np.sort(order[testing:])
        return classes, [images[i] for i in train], [images[i] for i in test]
    held_out = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if held_out is None:
        raise UserError(f"{folder} has train/, but neither test/ nor val/")
    classes, train_images = _list_split(folder / "train")
    test_classes, test_images = _list_split(held_out)
    for name in sorted(set(classes) ^ set(test_classes)):
        here, there = (folder / "train", held_out) if name in classes else (held_out, folder / "train")
        raise UserError(f"class {name} is in {here}, but not in {there}")
    return classes, train_images, test_images


def _list_split(folder: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    try:
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error
    if not names:
        raise UserError(f"{folder} has no folders in it: each class needs one")
    images: list[ImageFile] = []
    for label, name in enumerate(names):
        found = sorted(_files(str(folder / name)), key=lambda entry: entry.path)
        if not found:
            raise UserError(f"class {folder / name} has no images: add some, or remove the folder")
        for file in found:
            try:
                status = file.stat()
            except OSError as error:
                raise UserError(f"{file.path} cannot be read: {error.strerror}") from error
            images.append(ImageFile(file.path, label, status.st_size, status.st_mtime_ns))
    return tuple(names), images


def _files(folder: str, above: frozenset[str] = frozenset()) -> Iterator[os.DirEntry[str]]:
    """Yield every file below `folder` whose name does not start with a dot; `above` are its resolved parents.

    Raises UserError for a folder that is unreadable or contains itself, and for special files.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise UserError(f"{folder} is a link to a folder that contains it: remove it")
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry.path, above | {real})
        elif (
            os.path.exists(entry.path) and not entry.is_file()
        ):  # reading a pipe would block, reading a device would not end
            raise UserError(f"{entry.path} is no regular file: remove it")
        else:
            yield entry


def decoded(
    folder: Path, listing: list[ImageFile], size: int | None, *, mapped: bool = False, caches: Path | None = None
) -> Tensor:
    """Return all images of `listing`, (n, 3, height, width) uint8, from the cache if it matches these files.

    With `mapped`, the tensor is memory-mapped and read-only (writing to it ends the process). `caches` is the folder of
    the caches, by default that of the data folder.
    """
    caches = make_folder(caches or data_dir() / "image-folders")
    key = hashlib.sha256(os.fsencode(f"{folder}\n{size}")).hexdigest()[:16]
    cache = caches / f"{folder.name}-{key}.h5"
    fingerprint = _fingerprint(listing)
    with exclusive_lock(caches / f".{cache.name}.lock", f"decoding {folder}"):
        if (images := _read(cache, fingerprint, len(listing), mapped)) is None:
            replace_atomic(cache, lambda beside: _decode(beside, listing, size, fingerprint, folder))
            images = _read(cache, fingerprint, len(listing), mapped)
    if images is None:
        raise UserError(f"the cache {cache} cannot be read back: is the disk failing?")
    return images


def _fingerprint(listing: list[ImageFile]) -> str:
    digest = hashlib.sha256()
    for image in listing:
        digest.update(f"{image.path}\0{image.bytes}\0{image.changed}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read(cache: Path, fingerprint: str, count: int, mapped: bool) -> Tensor | None:
    """Read the `count` images of a cache; None if it is missing, damaged, or has another fingerprint."""
    try:
        with h5py.File(cache) as file:
            images = file["images"]
            if file.attrs.get("fingerprint") != fingerprint or not _as_written(images, count):
                return None
            if mapped:
                return _map(cache, images)
            require_memory(images.nbytes, f"decoding {count} images", "set data.size, and all are resized to it")
            return torch.from_numpy(images[...])
    except (OSError, KeyError, AttributeError, RuntimeError):
        return None


def _as_written(images: h5py.Dataset, count: int) -> bool:
    """Return whether an array has the layout of `_decode`: contiguous bytes in this file."""
    whole = images.id.get_offset() is not None and images.id.get_storage_size() == images.nbytes
    return images.dtype == np.uint8 and images.ndim == 4 and images.shape[:2] == (count, 3) and whole


def _map(cache: Path, images: h5py.Dataset) -> Tensor:
    """Return the memory-map the contiguous HDF5 data set `images` as a tensor, read page by page."""
    # Not copy on write, for which the system would reserve memory for the whole file.
    pixels = np.memmap(cache, np.uint8, "r", offset=images.id.get_offset(), shape=images.shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def _decode(beside: Path, listing: list[ImageFile], size: int | None, fingerprint: str, folder: Path) -> None:
    """Decode into the file `beside`, one image at a time; remove it on an error."""
    try:
        first = read_pixels(listing[0].path, size)
        report = _reporter(f"decoding {folder}", len(listing))
        with h5py.File(beside, "w") as file:
            images = file.create_dataset("images", (len(listing), *first.shape), np.uint8)
            for number, image in enumerate(listing):
                pixels = read_pixels(image.path, size)
                if pixels.shape != first.shape:
                    (_, h, w), (_, height, width) = pixels.shape, first.shape
                    raise UserError(
                        f"{image.path} is {w}×{h} pixels, and {listing[0].path} is {width}×{height}: "
                        "set data.size, and all are resized to it"
                    )
                images[number] = pixels
                report(number + 1)
            file.attrs["fingerprint"] = fingerprint
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_pixels(path: str, size: int | None) -> np.ndarray:
    """Decode an image to (3, height, width) uint8. Raises UserError if it is no image or has more than 8 bits."""
    try:
        with Image.open(path) as file:
            if 3 * math.prod(file.size) > max(FREE, MOST_COMPRESSED * os.path.getsize(path)):
                raise OSError(
                    f"it is said to have {file.width}×{file.height} pixels, and is {os.path.getsize(path)} bytes long"
                )
            if file.mode.startswith(WIDE) or _raw_mode(file).endswith(WIDE_RAW):
                mode = _raw_mode(file) or file.mode
                raise UserError(f"{path} has more than 8 bits a channel (mode {mode}): convert it")
            image = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "a damaged file" if isinstance(error, SyntaxError) else str(error).replace("\n", " ")
        raise UserError(f"{path} is not a readable image ({reason})") from error
    if size is not None:
        scale = size / min(image.size)
        width, height = (max(size, round(scale * side)) for side in image.size)
        if width * height > max(FREE, image.width * image.height):
            raise UserError(f"{path} is {image.width}×{image.height} pixels: too narrow for a square of it")
        left, top = (width - size) // 2, (height - size) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image).transpose(2, 0, 1)


def _raw_mode(file: Image.Image) -> str:
    """Return Pillow's raw mode of a file, such as `RGB;16B`, which Pillow opens as RGB with half of the bits."""
    tiles = getattr(file, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation per channel, in [0, 1] units, exactly, from a histogram."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = torch.zeros(256, dtype=torch.int64)
        for part in images[:, channel].split(4096):
            counts += torch.bincount(part.flatten(), minlength=256)
        shares = counts.double() / counts.sum()
        centre = (shares * levels).sum()
        mean.append(centre.item())
        std.append((shares * (levels - centre) ** 2).sum().sqrt().item() or 1.0)  # a constant channel is not scaled
    return tuple(mean), tuple(std)


def _reporter(what: str, total: int) -> Callable[[int], None]:
    """Make a function of the number of finished images that prints a line to standard error every few seconds."""
    started = last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > REPORT_EVERY:
            last, rate = now, done / (now - started)
            left = (total - done) / rate
            print(f"{what}: {done}/{total} images, {rate:.0f}/s, {left:.0f} s left", file=sys.stderr, flush=True)

    return report

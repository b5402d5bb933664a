"""The cost of reading large images: decoding their files, and reading batches from the memory-mapped cache."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from co_probe.benchmarks.measures import Action, rows
from co_probe.benchmarks.setup import Setup
from co_probe.data.augment import random_view
from co_probe.data.folder import decoded, list_images, read_pixels
from co_probe.errors import UserError
from co_probe.numerics.rng import make_rng

STORED = (500, 375)  # width and height of a file, about the mean of ImageNet's
QUALITY = 96  # of JPEG: about 110 kB a file, as ImageNet's
FILES = 64
BATCH = 32
STAGES = ((160, 128), (352, 224), (384, 288))  # sizes of the cache and of its crops, as in the preset imagenet


def data(setup: Setup) -> list[dict[str, Any]]:
    """Measure what one process reads in a second: JPEG files as large as ImageNet's, and crops of their cache.

    The files are in the page cache, and so is the memory-mapped cache: a disk that is slower limits both.
    Quantities: `images_per_second`; `mb_per_second`, of compressed files or of the pixels of crops.

    Raises:
        UserError: If the folder cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".co-probe-bench-", dir=setup.folder) as folder:
            return _data(setup, Path(folder))
    except OSError as error:
        raise UserError(f"cannot write to the folder {setup.folder}: {error.strerror}") from error


def _data(setup: Setup, folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for number in range(FILES):
        path = folder / "train" / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _photograph(rng).save(path, quality=QUALITY)
    listing = list_images(folder / "train", test_share=0.5)
    files = listing[1] + listing[2]
    actions: dict[str, Action] = {}
    bytes_read: dict[str, float] = {}
    for size, crop in STAGES:
        decode, read = f"JPEG to {size}", f"crops of {crop} from the cache of {size}"
        actions[decode] = partial(_decode, [file.path for file in files], size)
        bytes_read[decode] = sum(file.bytes for file in files) / len(files)
        images = decoded(folder, files, size, mapped=True, caches=folder)
        actions[read] = partial(_read, images, crop, make_rng("cpu", 0, "bench data"))
        bytes_read[read] = 3 * crop**2
    result = []
    for subject, seconds in setup.times("data", actions).items():
        per_second = (len(files) if subject.startswith("JPEG") else BATCH) / seconds
        result += rows(subject, images_per_second=per_second, mb_per_second=per_second * bytes_read[subject] / 1e6)
    return result


def _photograph(rng: np.random.Generator) -> Image.Image:
    """Draw an image that compresses about as a photograph does: large coloured areas with some noise."""
    areas = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(STORED, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 8, (STORED[1], STORED[0], 3))
    return Image.fromarray((np.asarray(areas) + noise).clip(0, 255).astype(np.uint8))


def _decode(paths: list[str], size: int) -> None:
    for path in paths:
        read_pixels(path, size)


def _read(images: torch.Tensor, crop: int, rng: torch.Generator) -> None:
    index = torch.randint(len(images), (BATCH,), generator=rng)
    random_view(index, (crop, crop), (images.shape[-1] - crop) // 2, True, rng).take(images)

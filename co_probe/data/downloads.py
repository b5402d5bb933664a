"""CIFAR-10, CIFAR-100 and SVHN through torchvision, downloaded once, with a checksum at every use."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from co_probe.data.dataset import Dataset
from co_probe.data.normalisation import NORMALISATIONS, Normalisation
from co_probe.data.places import data_dir, exclusive_lock, make_folder
from co_probe.errors import UserError


def cifar10(*, root: str | None = None) -> Dataset:
    """Load CIFAR-10: 50,000 training and 10,000 test photographs in 10 classes, (n, 3, 32, 32) uint8.

    Args:
        root: Folder of the download; `data_dir` gives the default.

    Raises:
        UserError: The data are neither there nor can be downloaded.

    Reference:
        Krizhevsky (2009); mean and standard deviation are those of the training pixels.
    """
    return _cifar("CIFAR10", root, NORMALISATIONS["cifar10"])


def cifar100(*, root: str | None = None) -> Dataset:
    """Load CIFAR-100: 50,000 training and 10,000 test photographs in 100 classes; otherwise as `cifar10`."""
    return _cifar("CIFAR100", root, NORMALISATIONS["cifar100"])


def svhn(*, root: str | None = None) -> Dataset:
    """Load SVHN: 73,257 training and 26,032 test house-number digits, (n, 3, 32, 32) uint8, without `extra`.

    Arguments and errors are those of `cifar10`.

    Reference:
        Netzer et al. (2011); mean and standard deviation are those of the training pixels.
    """
    from torchvision.datasets import SVHN

    folder = _folder(root)

    def part(split: str) -> tuple[Tensor, Tensor]:
        url, file, _ = SVHN.split_list[split]
        loaded = _fetch("SVHN", partial(SVHN, folder, split), folder, file, url)
        return torch.from_numpy(np.ascontiguousarray(loaded.data)), torch.from_numpy(loaded.labels)

    constants = NORMALISATIONS["svhn"]
    return Dataset(*part("train"), *part("test"), tuple("0123456789"), constants.mean, constants.std)


def _cifar(name: str, root: str | None, constants: Normalisation) -> Dataset:
    from torchvision import datasets

    source, folder, title = getattr(datasets, name), _folder(root), name.replace("R", "R-")
    train, test = (
        _fetch(title, partial(source, folder, train=train), folder, source.filename, source.url)
        for train in (True, False)
    )
    classes = tuple(train.classes)
    return Dataset(*_channels_first(train), *_channels_first(test), classes, constants.mean, constants.std)


def _channels_first(part: Any) -> tuple[Tensor, Tensor]:
    images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return torch.from_numpy(images), torch.tensor(part.targets)


def _folder(root: str | None) -> Path:
    if root is None:
        return make_folder(data_dir())
    # A run may come from another machine: its folders are used if they exist, but not created.
    if not (folder := Path(root).expanduser()).is_dir():
        raise UserError(f"data.root {root} is no folder here: make it, or set CO_PROBE_DATA instead of data.root")
    return folder


def _fetch(title: str, load: Callable[..., Any], folder: Path, file: str, url: str) -> Any:
    """Load one part of a data set from the folder, which may be read-only, or download it.

    Raises UserError, with file and folder, if both fail.
    """
    try:
        return load(download=False)
    except RuntimeError:  # missing or not as published
        pass
    try:
        with exclusive_lock(folder / f".{file}.lock", f"downloading {title}"):
            return load(download=True)
    except (OSError, RuntimeError, EOFError) as error:  # no network, an unexpected file, or a broken archive
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{title} is not in {folder}, or damaged there, and cannot be downloaded ({reason}): "
            f"get {url} elsewhere and put it at {folder / file}"
        ) from error

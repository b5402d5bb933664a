"""Reading of untrusted files of `torch.save`: tensors, numbers, strings and plain containers of them.

No code in a file is executed, and memory is proportional to its size: compressed archives, tensors that exceed their
storage, and containers that contain themselves are rejected.
"""

import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from co_probe.errors import DamagedFile, UserError, one_line

DEPTH = 64  # greatest nesting of containers


def read_pt(path: Path, allowed: list[Any] | None = None, what: str = "checkpoint") -> Any:
    """Read the content of a file of `torch.save` on the CPU, memory-mapped if its format allows it.

    Args:
        path: The file.
        allowed: Safe classes that it may hold in addition to tensors and containers.
        what: Name of the file in errors.

    Raises:
        UserError: The file is missing, a folder or a pipe.
        pickle.UnpicklingError: It holds other classes, or is no pickle.
        DamagedFile: It cannot be read, or needs more memory than its size.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.is_file():  # opening a pipe would block until another process writes to it
        raise UserError(f"{path} is a folder, not a {what} file" if path.is_dir() else f"{path} is no regular file")
    try:
        _check_archive(path)
        content = _load(path, allowed or [])
        _check_content(content, path.stat().st_size)
    except pickle.UnpicklingError:
        raise
    except PermissionError:
        raise UserError(f"{path} may not be read") from None
    except Exception as error:  # an untrusted file may cause any error
        reason = one_line(" ".join([type(error).__name__, *str(error).splitlines()[:1]]))
        raise DamagedFile(f"{path} cannot be read as a {what} ({reason[:300]})") from error
    return content


def _load(path: Path, allowed: list[Any]) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    with torch.serialization.safe_globals(allowed):
        try:
            return torch.load(path, mmap=True, **options)
        except RuntimeError:  # the format before PyTorch 1.6 cannot be mapped
            return torch.load(path, **options)


def _check_archive(path: Path) -> None:
    """Raise ValueError for a compressed archive; torch does not compress."""
    if tarfile.is_tarfile(path):
        raise ValueError("it is a tar archive, as PyTorch wrote before 0.1.10")
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is a compressed archive, which torch.save never writes")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its parts are said to be larger than the file")


def _check_content(content: Any, size: int) -> None:
    """Raise ValueError if `content` exceeds what a file of `size` bytes can hold."""
    left, nodes, storages = size, [(content, 0)], dict[int, int]()
    while nodes:
        (node, depth), left = nodes.pop(), left - 1
        if left < 0 or depth > DEPTH:
            raise ValueError("its containers contain each other, or too many")
        if isinstance(node, Mapping):
            nodes += [(inner, depth + 1) for pair in node.items() for inner in pair]
        elif isinstance(node, list | tuple | set | frozenset):
            nodes += [(inner, depth + 1) for inner in node]
        elif isinstance(node, Tensor):
            if node.layout != torch.strided or node.device.type != "cpu" or node.is_quantized or node.is_nested:
                raise ValueError("it has a tensor that is not an array of numbers")
            storage = node.untyped_storage()
            if node.numel() * node.element_size() > storage.nbytes():
                raise ValueError(f"it has a tensor of shape {tuple(node.shape)}, of which only a part is stored")
            storages[storage.data_ptr()] = max(storage.nbytes(), storages.get(storage.data_ptr(), 0))
    if sum(storages.values()) > size:
        raise ValueError("its tensors are said to be larger than the file")

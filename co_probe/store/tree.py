"""Nested dicts as HDF5: arrays (of numpy, or `Rows`) are datasets, numbers and strings are attributes.

Arrays are not compressed, except `Deflated` ones. All content has checksums: the Fletcher-32 filter for chunks of
datasets, and those of HDF5's file format 1.10 for metadata.
"""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from typing_extensions import override

from co_probe.errors import DamagedFile, UserError, one_line
from co_probe.files.atomic import replace_atomic

FORMAT = ("v110", "v110")
DEFLATE_LEVEL = 6  # default of gzip; 9 takes many times as long for a few percent
DEFLATE_MOST = 1100  # above the greatest compression ratio of deflate, 1032:1
DEPTH = 16  # greatest nesting of groups
KINDS = "biufS"  # allowed numpy kinds: booleans, numbers, bytes
# Errors of HDF5, numpy, json and our checks for invalid files.
UNEXPECTED = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)
Tree = Mapping[str, Any]


class Rows(ABC):
    """An array elsewhere, such as on a GPU, from which rows are fetched on demand."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @abstractmethod
    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows as a numpy array, for `[3:5]` or `[...]`."""


class Deflated(np.ndarray):
    """An array, `array.view(Deflated)`, that is compressed in the file by the standard gzip filter of HDF5."""


def encode(tree: Tree) -> bytes:
    """Return the bytes of an HDF5 file with `tree`."""
    with h5py.File("in-memory", "w", driver="core", backing_store=False, libver=FORMAT) as file:
        fill(file, tree)
        file.flush()
        return file.id.get_file_image()


def write(path: Path, tree: Tree, links: Mapping[str, tuple[str, str]] | None = None) -> None:
    """Write `tree` to the file `path` atomically, chunk by chunk, without a second copy in memory.

    Args:
        path: The file, which is replaced if it exists.
        tree: Content of the file.
        links: Links to other files, {path: (file name in the same folder, path in it)}.

    Raises:
        UserError: The file cannot be written; an existing one is unchanged.
    """

    def put(beside: Path) -> None:
        with created(beside) as (file, _):
            fill(file, tree)
            for name, (beside_it, target) in (links or {}).items():
                file[name] = h5py.ExternalLink(beside_it, target)

    replace_atomic(path, put)


@contextmanager
def created(path: Path) -> Iterator[tuple[h5py.File, "Sink"]]:
    """Create an HDF5 file to write piece by piece. Raises OSError at the end if any write failed."""
    with Sink(path, "x+") as sink:
        with h5py.File(sink, "w", libver=FORMAT) as file:
            yield file, sink
        if sink.error:
            raise sink.error


class Sink(io.FileIO):
    """A file that stores its first write error in `error`, since HDF5 ends the process if writing fails on closing."""

    error: OSError | None = None

    @override
    def write(self, content: Any) -> int:
        left = memoryview(content)
        try:
            while left and not self.error:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return len(content)

    @override
    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def fill(group: h5py.Group, tree: Tree) -> None:
    """Write `tree` into `group`."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            fill(group.create_group(name), value)
        elif isinstance(value, np.ndarray | Rows):
            _write_array(group, name, value)
        else:
            # Fixed-length bytes: the heap of variable-length strings has no checksum.
            group.attrs[name] = np.bytes_(value.encode(errors="surrogateescape")) if isinstance(value, str) else value


def _write_array(group: h5py.Group, name: str, value: np.ndarray | Rows) -> None:
    if 0 in (len(value.shape), *value.shape):
        # Neither can be chunked; compact storage puts the bytes into the object header, which has a checksum. h5py's
        # create_dataset would always use contiguous storage without a checksum.
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.COMPACT)
        layout.set_obj_track_times(False)  # as in create_dataset, so that equal content gives equal bytes
        kind, space = h5py.h5t.py_create(value.dtype, logical=True), h5py.h5s.create_simple(value.shape)
        dataset = h5py.h5d.create(group.id, name.encode(), kind, space, dcpl=layout)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(value[...]).reshape(value.shape))
        return
    chunks = _chunks(value)
    deflate = {"compression": "gzip", "compression_opts": DEFLATE_LEVEL} if isinstance(value, Deflated) else {}
    dataset = group.create_dataset(name, value.shape, value.dtype, chunks=chunks, fletcher32=True, **deflate)
    for start in range(0, value.shape[0], chunks[0]):
        dataset[start : start + chunks[0]] = value[start : start + chunks[0]]


def _chunks(value: np.ndarray | Rows, limit: int = 2**26) -> tuple[int, ...]:
    """Return the shape of chunks: the whole array, or as many rows as fit into `limit` bytes."""
    row = max(1, value.dtype.itemsize * math.prod(value.shape[1:]))
    return (max(1, min(value.shape[0], limit // row)), *value.shape[1:])


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; errors of HDF5 inside the context become DamagedFile."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block until another process writes to it
            raise OSError("it is no regular file")
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except PermissionError:
        raise UserError(f"{path} may not be read") from None
    except UNEXPECTED as error:
        reason = one_line(str(error).strip("'\"")[:300] or type(error).__name__)
        raise DamagedFile(
            f"{path} is damaged or is not such a file (truncated, altered, or another kind): {reason}"
        ) from error


def child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """Return the object at `path` in this file, without following soft or external links.

    Raises KeyError if it does not exist, ValueError for a link.
    """
    for name in path.strip("/").split("/"):
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{group.name} is not a group")
        link = group.get(name, getlink=True)
        if link is None:
            raise KeyError(f"{name} is missing")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{name} is a link, and links are not followed")
        group = group[name]
    return group


def read(group: h5py.Group, without: Collection[str] = (), deflated: int = 0) -> dict[str, Any]:
    """Read `group` without its members `without`; `encode` is the inverse.

    Time and memory are proportional to the size of the file: objects with several links, which could multiply content,
    and arrays that together exceed the file are rejected.

    Args:
        group: The group.
        without: Names of members to skip.
        deflated: Number of bytes by which compressed arrays may exceed the file.

    Raises:
        OSError: A checksum does not match.
        ValueError: The group has a link, or an unexpected object or array.
    """
    return _Reader(group, deflated).read(group, without)


class _Reader:
    """Reads groups with a limit on their total size."""

    def __init__(self, group: h5py.Group, deflated: int):
        self._left, self._deflated, self._seen = _file_size(group) + deflated, deflated, set[int]()

    def read(self, group: h5py.Group, without: Collection[str], depth: int = 0) -> dict[str, Any]:
        self._once(group)
        if depth > DEPTH:
            raise ValueError(f"its groups are nested more than {DEPTH} deep")
        tree: dict[str, Any] = {}
        for name in group:
            if name in without:
                continue
            node = child(group, name)
            if isinstance(node, h5py.Group):
                tree[name] = self.read(node, (), depth + 1)
                continue
            if not isinstance(node, h5py.Dataset):
                raise ValueError(f"{node.name} is neither a group nor an array")
            self._once(node)
            check_array(node, self._deflated)
            self._take(node.nbytes, node.name)
            tree[name] = read_array(node, self._deflated)
        attributes = read_attributes(group)
        self._take(sum(len(text) for text in attributes.values() if isinstance(text, str)), group.name)
        return tree | attributes

    def _once(self, node: h5py.HLObject) -> None:
        address = h5py.h5o.get_info(node.id).addr
        if address in self._seen:
            raise ValueError(f"{node.name} is in more than one place of the file")
        self._seen.add(address)

    def _take(self, size: int, name: str) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"{name} and what comes before it are said to have more bytes than the file")


def _file_size(node: h5py.HLObject) -> int:
    return node.file.id.get_filesize()


def read_attributes(group: h5py.Group) -> dict[str, Any]:
    """Read the numbers and strings of `group`.

    Raises:
        ValueError: An attribute is an array, or neither a number nor a string.
    """
    found = {}
    for name in group.attrs:
        about = group.attrs.get_id(name)
        if about.shape != () or not (about.dtype.kind in KINDS or h5py.check_string_dtype(about.dtype)):
            raise ValueError(f"the attribute {name} is {about.dtype} of shape {about.shape}, not a number or a string")
        found[name] = _plain(group.attrs[name])
    return found


def check_array(dataset: h5py.Dataset, deflated: int = 0) -> None:
    """Check the header of an array before memory is allocated for it.

    Args:
        dataset: The array.
        deflated: Number of bytes by which it may exceed the file, if it is compressed.

    Raises:
        ValueError: The array is stored in another file, is not of numbers or bytes, has another compression, or is
            larger than its storage.
    """
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{dataset.name} takes its numbers from another file, and links are not followed")
    if dataset.dtype.kind not in KINDS or dataset.dtype.subdtype or dataset.shape is None:
        raise ValueError(f"{dataset.name} has elements of type {dataset.dtype}, and numbers or bytes are expected")
    layout = dataset.id.get_create_plist()
    filters = [layout.get_filter(place)[0] for place in range(layout.get_nfilters())]
    compressed = filters.count(h5py.h5z.FILTER_DEFLATE)
    if compressed > 1 or not set(filters) <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32}:
        raise ValueError(f"{dataset.name} is compressed in another way than by deflating it once")
    stored, most = dataset.id.get_storage_size(), _file_size(dataset)
    fits = dataset.nbytes <= min(stored * DEFLATE_MOST, most + deflated) if compressed else dataset.nbytes <= stored
    if not fits or stored > most:
        raise ValueError(f"{dataset.name} is said to have {dataset.nbytes} bytes, and {stored} are stored")


def read_array(dataset: h5py.Dataset, deflated: int = 0) -> np.ndarray:
    """Read a dataset of this file, as `Deflated` if it is compressed.

    Raises:
        ValueError: `check_array`, with the same arguments, rejects it.
    """
    check_array(dataset, deflated)
    array = np.asarray(dataset[()])
    return array.view(Deflated) if dataset.compression == "gzip" else array


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    return value.item() if isinstance(value, np.generic) else value

"""Nested dicts as HDF5: arrays (numpy's, or `Rows`) are datasets, numbers and strings are attributes.

Arrays are stored as they are, but for `Deflated` ones. Every byte that matters is under a checksum: chunks of datasets
under the Fletcher-32 filter, and everything else under the checksums that HDF5's file format 1.10 puts on its own
metadata.
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

from co_probe.errors import DamagedFile, UserError
from co_probe.files.atomic import replace_atomic

FORMAT = ("v110", "v110")
DEFLATE_LEVEL = 6  # gzip's own; 9 takes many times as long for some hundredths
DEFLATE_MOST = 1100  # the most that deflate compresses is 1032:1
KINDS = "biufS"  # numpy's letters for what a file of ours holds: booleans, numbers, bytes
Tree = Mapping[str, Any]


class Rows(ABC):
    """An array that is somewhere else: as many of its rows as are asked for come here at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @abstractmethod
    def __getitem__(self, rows: Any) -> np.ndarray:
        """As of a numpy array: `[3:5]` or, of one without dimensions too, `[...]`."""


class Deflated(np.ndarray):
    """An array, `array.view(Deflated)`, that is compressed in the file, by the filter that every HDF5 has (gzip)."""


def encode(tree: Tree) -> bytes:
    """Return the bytes of an HDF5 file that holds `tree`."""
    with h5py.File("in-memory", "w", driver="core", backing_store=False, libver=FORMAT) as file:
        fill(file, tree)
        file.flush()
        return file.id.get_file_image()


def write(path: Path, tree: Tree, links: Mapping[str, tuple[str, str]] | None = None) -> None:
    """Write `tree` to the file `path`, atomically, a chunk at a time: there is no second copy of it in memory.

    Args:
        path: The file; what was there before is replaced.
        tree: Its content.
        links: Links to other files, {path: (file name beside this one, path in it)}.

    Raises:
        UserError: The file cannot be written; the old one is untouched.
    """

    def put(beside: Path) -> None:
        with created(beside) as (file, _):
            fill(file, tree)
            for name, (beside_it, target) in (links or {}).items():
                file[name] = h5py.ExternalLink(beside_it, target)

    replace_atomic(path, put)


@contextmanager
def created(path: Path) -> Iterator[tuple[h5py.File, "Sink"]]:
    """A new HDF5 file that is written piece by piece. Raises OSError at the end if that failed anywhere."""
    with Sink(path, "x+") as sink:
        with h5py.File(sink, "w", libver=FORMAT) as file:
            yield file, sink
        if sink.error:
            raise sink.error


class Sink(io.FileIO):
    """A file that keeps the first error of writing in `error`: HDF5 ends the process if it cannot write on closing."""

    error: OSError | None = None

    def write(self, content) -> int:
        left = memoryview(content)
        try:
            while left and not self.error:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return len(content)

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
            # Fixed-length bytes: strings of variable length live in a heap that has no checksum.
            group.attrs[name] = np.bytes_(value.encode(errors="surrogateescape")) if isinstance(value, str) else value


def _write_array(group: h5py.Group, name: str, value: np.ndarray | Rows) -> None:
    if 0 in (len(value.shape), *value.shape):
        # Neither can be chunked; compact storage puts the bytes into the (checksummed) object header. h5py's
        # create_dataset would lay them out contiguously, without a checksum, whatever it is asked for.
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.COMPACT)
        layout.set_obj_track_times(False)  # as create_dataset does: the same content is the same bytes
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
    """One chunk, unless it would be larger than `limit` bytes: then as many first rows as fit."""
    row = max(1, value.dtype.itemsize * math.prod(value.shape[1:]))
    return (max(1, min(value.shape[0], limit // row)), *value.shape[1:])


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open for reading. Whatever HDF5 finds wrong with the file while it is open becomes a DamagedFile error."""
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for somebody who writes to it
            raise OSError("it is no regular file")
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except PermissionError:
        raise UserError(f"{path} may not be read") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
        reason = str(error).strip("'\"") or type(error).__name__
        raise DamagedFile(
            f"{path} is damaged or is not such a file (truncated, altered, or another kind): {reason}"
        ) from error


def child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """What lies at `path` in this very file: links that lead out of it (or sideways) are not followed.

    Raises KeyError if there is nothing, ValueError for such a link.
    """
    for name in path.strip("/").split("/"):
        link = group.get(name, getlink=True)
        if link is None:
            raise KeyError(f"{name} is missing")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{name} is a link, and links are not followed")
        group = group[name]
    return group


def read(group: h5py.Group, without: Collection[str] = ()) -> dict[str, Any]:
    """Read all of `group` but its members `without`, as `encode` took it.

    Raises:
        OSError: A checksum does not match.
        ValueError: It holds a link, or an array that `read_array` refuses.
    """
    tree: dict[str, Any] = {}
    for name in group:
        if name in without:
            continue
        node = child(group, name)
        tree[name] = read(node) if isinstance(node, h5py.Group) else read_array(node)
    return tree | read_attributes(group)


def read_attributes(group: h5py.Group) -> dict[str, Any]:
    """The numbers and strings of `group`."""
    return {name: _plain(value) for name, value in group.attrs.items()}


def read_array(dataset: h5py.Dataset) -> np.ndarray:
    """Read a dataset that lies in this very file, as `Deflated` if it is compressed there.

    Raises:
        ValueError: The dataset takes its numbers from another file, holds anything but numbers and bytes, or is said to
            be larger than what is stored of it, in which case no memory is allocated.
    """
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{dataset.name} takes its numbers from another file, and links are not followed")
    if dataset.dtype.kind not in KINDS:
        raise ValueError(f"{dataset.name} has elements of type {dataset.dtype}, and numbers or bytes are expected")
    stored, ratio = dataset.id.get_storage_size(), DEFLATE_MOST if dataset.compression else 1
    if dataset.nbytes > stored * ratio:
        raise ValueError(f"{dataset.name} is said to have {dataset.nbytes} bytes, and {stored} are stored")
    array = np.asarray(dataset[()])
    return array.view(Deflated) if dataset.compression == "gzip" else array


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    return value.item() if isinstance(value, np.generic) else value

"""Files as somebody with h5py, zipfile or torch can make them, whose checksums are right and whose content is not."""

import io
import resource
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

MEMORY = 300 * 2**20  # bytes that reading a file of some kilobytes may take, with all that Python imports meanwhile
PATIENCE = 20.0  # seconds that it may take, on a machine that is busy


@contextmanager
def modestly() -> Iterator[None]:
    """Assert that what is done inside takes little memory and little time."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
    assert time.monotonic() - started < PATIENCE


def put(file: h5py.Group, path: str, value: Any) -> None:
    """Put `value` in the place of what is at `path`, an attribute or an object: an array, a group or an attribute.

    A function makes what is to be there: it is given the group and the name.
    """
    where, _, name = path.rpartition("/")
    group = file[where] if where else file
    if name in group.attrs:
        del group.attrs[name]
    elif name in group:
        del group[name]
    if callable(value):
        value(group, name)
    elif isinstance(value, np.ndarray):
        group[name] = value
    elif isinstance(value, dict):
        inner = group.create_group(name)
        for key, each in value.items():
            put(inner, key, each)
    elif value is not None:
        group.attrs[name] = np.bytes_(value.encode(errors="surrogateescape")) if isinstance(value, str) else value


def bomb(shape: tuple[int, ...], dtype: str = "f4", **filters: Any) -> Callable[[h5py.Group, str], None]:
    """An array of zeros of `shape`, compressed to next to nothing."""
    chunks = (1,) * (len(shape) - 1) + (min(shape[-1], 2**20),)

    def make(group: h5py.Group, name: str) -> None:
        options = {"compression": "gzip", "compression_opts": 9} | filters
        dataset = group.create_dataset(name, shape, dtype, chunks=chunks, **options)
        dataset[(0,) * (len(shape) - 1)] = np.zeros(shape[-1], dtype)

    return make


def twice_deflated(group: h5py.Group, name: str, size: int = 2**25) -> None:
    """32 MB in some hundred bytes: deflated, and deflated again."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((2**22,))
    for _ in range(2):
        layout.set_deflate(9)
    space = h5py.h5s.create_simple((size,))
    dataset = h5py.Dataset(h5py.h5d.create(group.id, name.encode(), h5py.h5t.NATIVE_INT8, space, dcpl=layout))
    for start in range(0, size, 2**22):
        dataset[start : start + 2**22] = 0


def doubled(group: h5py.Group, name: str, depth: int = 40) -> None:
    """Groups that hold the next one twice: a trillion paths through forty groups."""
    group = group.create_group(name)
    for _ in range(depth):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner


def nested(group: h5py.Group, name: str, depth: int = 3000) -> None:
    """Groups in groups in groups."""
    for _ in range(depth):
        group = group.create_group(name)
        name = "a"


def repeated(group: h5py.Group, name: str, count: int = 300) -> None:
    """One array under many names."""
    group = group.create_group(name)
    group["0"] = np.zeros(10_000, np.float32)
    for number in range(1, count):
        group[str(number)] = group["0"]


def repacked(path: Path, **changes: Callable[[bytes], bytes]) -> None:
    """Write an archive of torch.save again, compressed, with changes to its parts by the ends of their names."""
    source, out = zipfile.ZipFile(path), io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.infolist():
            content = source.read(entry)
            for end, change in changes.items():
                content = change(content) if entry.filename.endswith(end) else content
            archive.writestr(entry.filename, content)
    path.write_bytes(out.getvalue())


def png(width: int, height: int, content: bytes, depth: int = 8, color_type: int = 0) -> bytes:
    """A PNG file that says of itself what it is told to; `content` is compressed."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """So many zeros, compressed."""
    compressor, block = zlib.compressobj(9), bytes(2**20)
    parts = [compressor.compress(block[: min(2**20, size - start)]) for start in range(0, size, 2**20)]
    return b"".join([*parts, compressor.flush()])


def container_of_itself() -> dict[str, Any]:
    """A dictionary that holds itself."""
    content: dict[str, Any] = {"w": torch.zeros(2)}
    content["state_dict"] = content
    return content


def doubling(depth: int = 40) -> list[Any]:
    """Lists that hold the next one twice."""
    made: list[Any] = [1]
    for _ in range(depth):
        made = [made, made]
    return made

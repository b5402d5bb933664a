"""Disks for tests: one that remembers every call that changed it, and one that fails at a chosen call."""

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from co_probe.files import atomic
from co_probe.store import tree

CALLS = ("fsync", "ftruncate", "mkdir", "pwrite", "replace", "unlink")


@dataclass(frozen=True)
class Call:
    """One call that changes a folder.

    Attributes:
        kind: `create`, `write`, `truncate`, `sync`, `sync folder`, `rename`, `remove`, `mark`.
        name: The file in the folder.
        at: Where it writes, or how long the file becomes.
        content: What it writes.
        to: The new name.
    """

    kind: str
    name: str = ""
    at: int = 0
    content: bytes = b""
    to: str = ""


class RecordingDisk:
    """Remembers, in order, every call of the package that changes a folder or makes a change of it durable.

    Args:
        monkeypatch: What is replaced is restored with it.
        folder: The folder; calls elsewhere are passed on.
    """

    def __init__(self, monkeypatch: Any, folder: Path):
        self.folder, self.calls = folder, list[Call]()
        system = {name: getattr(os, name) for name in (*CALLS, "open")}

        def add(kind: str, path: Any, **about: Any) -> None:
            if Path(path).parent == folder:
                self.calls.append(Call(kind, Path(path).name, **about))

        def of(handle: int) -> str:
            return os.readlink(f"/proc/self/fd/{handle}")

        def fsync(handle: int) -> None:
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                if Path(of(handle)) == folder:
                    self.calls.append(Call("sync folder"))
            else:
                add("sync", of(handle))

        def replace(source: Any, target: Any) -> None:
            system["replace"](source, target)
            add("rename", source, to=Path(target).name)

        def unlink(path: Any, **options: Any) -> None:
            system["unlink"](path, **options)
            add("remove", path)

        def pwrite(handle: int, content: bytes, at: int) -> int:
            add("write", of(handle), at=at, content=bytes(content))
            return system["pwrite"](handle, content, at)

        def ftruncate(handle: int, size: int) -> None:
            add("truncate", of(handle), at=size)
            system["ftruncate"](handle, size)

        def open_(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            new = bool(flags & os.O_CREAT) and not os.path.exists(path)
            handle = system["open"](path, flags, *rest, **options)
            if new:
                add("create", path)
            return handle

        def recorded(kind: type) -> type:
            class Recorded(kind):
                def __init__(self, path: Any, mode: str):
                    super().__init__(path, mode)
                    self._path = path
                    add("create", path)

                def write(self, content: Any) -> int:
                    at = self.tell()
                    written = super().write(content)
                    add("write", self._path, at=at, content=bytes(memoryview(content)[:written]))
                    return written

                def truncate(self, size: int | None = None) -> int:
                    size = super().truncate(size)
                    add("truncate", self._path, at=size)
                    return size

            return Recorded

        functions = {"fsync": fsync, "replace": replace, "unlink": unlink, "pwrite": pwrite, "ftruncate": ftruncate}
        for name, function in functions.items():
            monkeypatch.setattr(os, name, function)
        monkeypatch.setattr(os, "open", open_)
        monkeypatch.setattr(tree, "Sink", recorded(tree.Sink))
        monkeypatch.setattr(atomic, "open", _opening(recorded(io.FileIO)), raising=False)

    def mark(self, name: str) -> None:
        """Note that something was promised by now."""
        self.calls.append(Call("mark", name))


@dataclass
class Disk:
    """A folder as it is to processes, and as it would be after a power cut.

    Attributes:
        names: The files, by name; a file is a number.
        content: The content of each file.
        synced: The content of each file when it was last synced; empty before.
        durable: The names when the folder was last synced.
        pending: Changes of names since then.
    """

    names: dict[str, int] = field(default_factory=dict)
    content: dict[int, bytes] = field(default_factory=dict)
    synced: dict[int, bytes] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[Callable[[dict[str, int]], None]] = field(default_factory=list)

    def apply(self, call: Call, share: float = 1.0) -> None:
        """Take a call; of a write, only this share of its bytes."""
        if call.kind == "create":
            number = len(self.content)
            self.content[number], self.synced[number] = b"", b""
            self._rename(lambda names: names.__setitem__(call.name, number))
        elif call.kind == "remove":
            self._rename(lambda names: names.pop(call.name, None))
        elif call.kind == "rename":
            number = self.names[call.name]

            def rename(names: dict[str, int]) -> None:
                names.pop(call.name, None)
                names[call.to] = number

            self._rename(rename)
        elif call.kind == "sync":
            self.synced[self.names[call.name]] = self.content[self.names[call.name]]
        elif call.kind == "sync folder":
            self.durable, self.pending = dict(self.names), []
        elif call.kind in ("write", "truncate"):
            number = self.names[call.name]
            old = self.content[number]
            if call.kind == "truncate":
                self.content[number] = old[: call.at].ljust(call.at, b"\0")
            else:
                part = call.content[: int(share * len(call.content))]
                start = old[: call.at].ljust(call.at, b"\0")
                self.content[number] = start + part + old[call.at + len(part) :]

    def _rename(self, change: Callable[[dict[str, int]], None]) -> None:
        change(self.names)
        self.pending.append(change)

    def after_a_kill(self) -> dict[str, bytes]:
        """The files if the process ends now."""
        return {name: self.content[number] for name, number in self.names.items()}

    def after_power_cuts(self) -> Iterator[dict[str, bytes]]:
        """The files if the machine ends now: nothing of what was not synced, or the first changes of names."""
        for count in range(len(self.pending) + 1):
            names = dict(self.durable)
            for change in self.pending[:count]:
                change(names)
            yield {name: self.synced[number] for name, number in names.items()}


def fail_at(monkeypatch: Any, call: int, number: int = errno.EIO) -> Callable[[], bool]:
    """Let the `call`-th call that changes the disk fail; the function that is returned says whether it came to that."""
    left = call

    def due() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def failing(function: Callable) -> Callable:
        def wrapped(*args: Any, **options: Any) -> Any:
            if due():
                raise OSError(number, os.strerror(number))
            return function(*args, **options)

        return wrapped

    def failing_file(kind: type) -> type:
        class Failing(kind):
            def write(self, content: Any) -> int:
                if due():
                    raise OSError(number, os.strerror(number))
                return super().write(content)

        return Failing

    class FailingSink(tree.Sink):
        def write(self, content: Any) -> int:
            if due():
                self.error = self.error or OSError(number, os.strerror(number))
                return len(content)
            return super().write(content)

    for name in CALLS:
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    monkeypatch.setattr(tree, "Sink", FailingSink)
    monkeypatch.setattr(atomic, "open", _opening(failing_file(io.FileIO)), raising=False)
    return lambda: left <= 0


def _opening(kind: type) -> Callable[..., Any]:
    """What stands for `open`: files to write to are of this kind."""
    return lambda path, mode, **_: (io.FileIO if mode == "rb" else kind)(path, mode)

"""Checks that large allocations fit into memory."""

from contextlib import suppress
from pathlib import Path

from co_probe.errors import UserError

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of containers


def memory_size() -> int | None:
    """Return the memory of this machine or container in bytes; None if unknown."""
    sizes = []
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    for name in LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            sizes.append(int(Path(name).read_text()))
    return min(sizes, default=None)


def require_memory(needed: int, what: str, hint: str) -> None:
    """Raise an error if an allocation exceeds the memory of this machine.

    Args:
        needed: Number of bytes.
        what: Name of the allocation in the error.
        hint: The settings to choose smaller.

    Raises:
        UserError: This machine has less memory in total.
    """
    size = memory_size()
    if size is not None and needed > size:
        raise UserError(f"{what} needs {_gigabytes(needed)} of memory, and this machine has {_gigabytes(size)}: {hint}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.3g} GB" if size < 1e12 else f"{size / 1e9:,.0f} GB"

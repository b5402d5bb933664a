"""How much memory tensors take at the highest moment of a step."""

import itertools
import os
from collections.abc import Callable
from typing import Any

import torch


def peak_bytes(make: Callable[[], Callable[[], Any]], device: torch.device) -> int:
    """Bytes of tensors at the highest moment of the second call of what `make` makes, with all that `make` allocated.

    On a GPU by the allocator's own account (`max_memory_allocated`); on a CPU by the allocations and releases that
    PyTorch's profiler sees. Scratch memory that a kernel takes past the allocator is in neither, nor is the program.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        act = make()
        act()
        torch.cuda.reset_peak_memory_stats(device)
        act()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would speak of its start and end
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        act = make()
        act()
        with torch.profiler.record_function("measured"):
            act()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    begun = next(event.start_ns() for event in events if event.name() == "measured")
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    levels = itertools.accumulate(size for _, size in changes)
    return max(level for (moment, _), level in zip(changes, levels, strict=True) if moment >= begun)

"""Time and floating-point operations of a call, and their rows in a table."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import flop_registry

Action = Callable[[], object]
LEAST_SECONDS = 0.01  # of each measurement: shorter actions are repeated and averaged


def interleaved(
    actions: Mapping[str, Action], repeats: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, np.ndarray]:
    """Measure each action's seconds, (repeats,), in turns: all actions once, then all again.

    `torch.utils.benchmark.Timer` runs an action once to warm up, waits for the device, and measures.
    """
    threads = torch.get_num_threads()
    timers = {name: Timer("act()", globals={"act": act}, num_threads=threads) for name, act in actions.items()}
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats):
        for name, timer in timers.items():
            times[name].append(timer.blocked_autorange(min_run_time=LEAST_SECONDS).median)
        if progress:
            progress(turn + 1, repeats)
    return {name: np.array(seconds) for name, seconds in times.items()}


def side_by_side(
    steps: Mapping[str, Action], turns: int, block: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, np.ndarray]:
    """Measure processor seconds of a block of each action, (turns,), in turns, the order of which alternates.

    For small differences on a busy CPU: other processes cost no processor time, and slow moments of the caches and the
    clock, which do, affect all actions alike. Within a block, caches are as warm as in training. On several threads it
    is the sum of their times.

    Args:
        steps: What to repeat; each is done once before anything is measured.
        turns: Number of measurements of each.
        block: Number of repetitions that make up a measurement.
        progress: Called after each turn with the numbers of finished and of planned turns.
    """
    for act in steps.values():
        act()
    times = {name: np.zeros(turns) for name in steps}
    for turn in range(turns):
        for name, act in list(steps.items())[:: -1 if turn % 2 else 1]:
            started = time.process_time()
            for _ in range(block):
                act()
            times[name][turn] = time.process_time() - started
        if progress:
            progress(turn + 1, turns)
    return times


def rows(subject: str, **quantities: float | np.ndarray) -> list[dict[str, Any]]:
    """Make a row of each quantity: the median of its measurements, their quartiles, and their number."""
    made = []
    for name, values in quantities.items():
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        spread = {"value": middle, "low": low, "high": high, "n": np.size(values)}
        made.append({"subject": subject, "quantity": name, **spread})
    return made


class _FlopCounter(TorchDispatchMode):
    """Counts by the formulas of `torch.utils.flop_counter`, whose own mode does not support `torch.autograd.grad`."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops(act: Action) -> int:
    """Floating-point operations of a call in convolutions and matrix products, backward passes included."""
    with _FlopCounter() as counter:
        act()
    return counter.total

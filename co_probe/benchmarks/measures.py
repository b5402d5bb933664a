"""Measurement of time and floating-point operations."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Action = Callable[[], object]
LEAST_SECONDS = 0.01  # least duration of a measurement; shorter actions are repeated and averaged


def interleaved(
    actions: Mapping[str, Action], repeats: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, np.ndarray]:
    """Measure seconds of each action, (repeats,), in turns.

    `torch.utils.benchmark.Timer` runs an action once to warm up, waits for the device, and measures.
    """
    from torch.utils.benchmark import Timer  # not above: it warns of a missing GPU where a CUDA compiler is installed

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
    """Measure processor seconds of a block of each action, (turns,), in turns of alternating order.

    For small differences on a busy CPU: other processes do not count, and effects of caches and clock rate are the same
    for all actions. Within a block, caches are as warm as in training. Times of several threads are summed.

    Args:
        steps: Actions, which run once before the measurement.
        turns: Number of measurements of each action.
        block: Number of repetitions per measurement.
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
    """Make a row per quantity: median, quartiles and number of measurements."""
    made = []
    for name, values in quantities.items():
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        spread = {"value": middle, "low": low, "high": high, "n": np.size(values)}
        made.append({"subject": subject, "quantity": name, **spread})
    return made


class _FlopCounter(TorchDispatchMode):
    """Counts with the formulas of `torch.utils.flop_counter`, whose mode does not support `torch.autograd.grad`."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops(act: Action) -> int:
    """Count floating-point operations of a call in convolutions and matrix products, including backward passes."""
    with _FlopCounter() as counter:
        act()
    return counter.total

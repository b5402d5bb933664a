"""Timing several things in turn, and what comes of it as rows of a table."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

WARM_UP = 2  # turns before anything is measured: kernels are chosen and memory is claimed there

Times = dict[str, np.ndarray]  # seconds of each turn
Row = dict[str, Any]


def take_turns(
    actions: Mapping[str, Callable[[], Any]],
    repeats: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Times:
    """Seconds of each action, `repeats` times one after the other; `progress` is told of finished and planned turns.

    Who begins changes from turn to turn; the order after them does not.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(1 - WARM_UP, repeats + 1):
        first = turn % len(actions)  # another one each time: what came before leaves caches and memory in some state
        for name in [*actions][first:] + [*actions][:first]:
            seconds = timed(actions[name], device)
            if turn > 0:
                times[name].append(seconds)
        if progress:
            progress(turn + WARM_UP, repeats + WARM_UP)
    return {name: np.array(seconds) for name, seconds in times.items()}


def timed(act: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes until the device has done all of it."""
    wait(device)
    started = time.perf_counter()
    act()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(subject: str, quantity: str, values: np.ndarray) -> Row:
    """A row with the median of what was measured, its quartiles, and how often it was."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"subject": subject, "quantity": quantity, "value": middle, "low": low, "high": high, "n": len(values)}


def exact(subject: str, **values: float) -> list[Row]:
    """Rows of quantities that are counted, not timed."""
    return [
        {"subject": subject, "quantity": name, "value": value, "low": value, "high": value, "n": 1}
        for name, value in values.items()
    ]


def against(times: Times, name: str, yardsticks: Sequence[str]) -> list[Row]:
    """For each yardstick that was timed, how many times as long as `name` it took, turn by turn: `ratio`."""
    return [spread(other, "ratio", times[other] / times[name]) for other in yardsticks]

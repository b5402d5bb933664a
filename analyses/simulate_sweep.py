"""Where the time of a sweep goes on 8, 64 and 1,000 GPUs, by a simulation of its scheduler.

Runs wait in a queue; every free slot takes the next one, as the executors of `co_probe.sweeps` do. A run costs its
start (interpreter, torch, CUDA, data) and its epochs. Tasks are handed out one at a time, by one process. Slots fail at
random; the run that was on one waits until that is noticed, starts again, and goes on from its last finished epoch.

    python analyses/simulate_sweep.py [--runs 1000] [--pass-seconds 0.43] [--epochs 30] [--out table.csv]

An epoch takes the passes of a step of its method times `--pass-seconds`. Measured are the passes of 24 methods
(figures/digits/methods.csv), the seconds of a pass over CIFAR-10 with PreActResNet-18 on an H200 (the last epoch of
fgsm-guard in figures/cifar10-jpeg: 3.0 s for 7 passes), the start (there, imports and compilation made the first epoch
40 s longer), and how soon Ray notices a dead node (5 s with the health checks of co-probe's tests). How often a GPU
fails is an assumption.
"""

import argparse
import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

GPUS = (8, 64, 1000)
MEASURED = Path(__file__).parents[1] / "figures" / "digits" / "methods.csv"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep and the machines that it runs on. Times in seconds.

    Attributes:
        runs: Number of runs.
        epochs: Epochs per run.
        pass_seconds: Duration of a forward pass over all training images.
        start: Time from a task's start to its first training step.
        submit: Time that handing out a task takes the one process that does it.
        failures: Failures per slot and day.
        detection: Time until a failure is noticed and the task is queued again.
    """

    runs: int = 1000
    epochs: int = 30
    pass_seconds: float = 0.43
    start: float = 45.0
    submit: float = 0.002
    failures: float = 0.2
    detection: float = 5.0


def measured_passes() -> np.ndarray:
    """Passes per step of each method, (methods,)."""
    table = pd.read_csv(MEASURED)
    return table[table["quantity"] == "passes"].groupby("method")["value"].mean().to_numpy()


def simulate(sweep: Sweep, slots: int, seed: int = 0) -> dict[str, float]:
    """Run a sweep on paper; each run has a random method.

    Args:
        sweep: The sweep.
        slots: Number of runs at a time.
        seed: Seed of durations and failures.

    Returns:
        hours: until the last run ends; busy, start, lost, idle: shares of the slots' time that train epochs that are
        kept, start tasks, train what a failure loses or wait for it to be noticed, and have nothing to do; tail: share
        of the hours after the queue is empty; restarts: number of tasks started again.
    """
    rng = np.random.default_rng(seed)
    epoch = sweep.pass_seconds * rng.choice(measured_passes(), sweep.runs)
    queue = [(0.0, run) for run in range(sweep.runs)]  # (ready from, run)
    heapq.heapify(queue)
    free = [0.0] * slots
    left = np.full(sweep.runs, sweep.epochs)
    submitter = empty = end = 0.0
    busy = start = lost = 0.0
    restarts = 0
    while queue:
        ready, run = heapq.heappop(queue)
        slot = heapq.heappop(free)
        submitter = max(submitter, slot, ready) + sweep.submit
        begin = submitter
        empty = max(empty, begin)
        wanted = sweep.start + left[run] * epoch[run]
        failure = rng.exponential(86400 / sweep.failures) if sweep.failures else np.inf
        if failure >= wanted:
            busy, start, end = busy + left[run] * epoch[run], start + sweep.start, max(end, begin + wanted)
            heapq.heappush(free, begin + wanted)
            continue
        done = int(max(0.0, failure - sweep.start) // epoch[run])
        left[run] -= done
        restarts += 1
        busy, start = busy + done * epoch[run], start + min(sweep.start, failure)
        lost += max(0.0, failure - sweep.start) - done * epoch[run] + sweep.detection
        again = begin + failure + sweep.detection
        heapq.heappush(queue, (again, run))
        heapq.heappush(free, again)  # the slot, or one in its place
    total = slots * end
    shares = {"busy": busy / total, "start": start / total, "lost": lost / total}
    idle = 1 - sum(shares.values())
    return {"hours": end / 3600, **shares, "idle": idle, "tail": (end - empty) / end, "restarts": float(restarts)}


def table(sweep: Sweep, gpus: tuple[int, ...] = GPUS, seeds: int = 5) -> pd.DataFrame:
    """Means over seeds, a row for each number of GPUs, with a run on each."""
    rows = []
    for count in gpus:
        results = [simulate(sweep, count, seed) for seed in range(seeds)]
        rows.append({"gpus": count, **pd.DataFrame(results).mean().to_dict()})
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table, and write it to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in vars(Sweep()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--out", type=Path)
    given = vars(parser.parse_args())
    out = given.pop("out")
    frame = table(Sweep(**given))
    print(frame.round(3).to_string(index=False))
    if out:
        frame.to_csv(out, index=False)


if __name__ == "__main__":
    main()

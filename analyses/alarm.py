"""How early the alarm comes, and how often for nothing, beside simpler detectors, into figures/alarm/.

    python analyses/alarm.py RUNS... [--public steps.csv.gz]

RUNS: runs with step indicators (such as those of `lead.py` and `guard.py`), and output folders of `alarm_traces.py`.
`--public`: step traces of other people (run, step, cosine, train_loss, train_acc, loss_gain, pgd_acc).

A collapse is dated to the first time that accuracy under PGD-10 is at most 10% and 20 points below its peak. Of runs,
which measure it after each epoch, to the end of the epoch before, so that leads are too short by up to an epoch.
The simpler detectors are tuned on runs of the seeds `TUNED_SEEDS` and the public traces; all other runs are held out.
Leave out runs with a guard: up to its switch, one is the run without.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from co_probe.indicators.alarm import Alarm
from co_probe.store import StoredRun

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TUNED_SEEDS = (0,)
WINDOW = 20
TOO_EARLY = 300  # updates before the collapse: such an alarm announces nothing, and counts as false
NAMES = {"pert_alignment": "alignment", "train_accuracy": "accuracy"}  # of step series
Detector = Callable[[pd.DataFrame], int | None]


def read_run(run: StoredRun) -> pd.DataFrame:
    """The step series of a run as a trace, with accuracy under PGD-10 at the last step of each epoch."""
    parts = []
    for epoch in run.epochs:
        part = pd.DataFrame(run.step_series(epoch)).rename(columns=NAMES)
        part.loc[len(part) - 1, "pgd"] = run.metrics(epoch)["pgd10"]
        parts.append(part)
    trace = pd.concat(parts, ignore_index=True)
    return trace.assign(step=np.arange(1, len(trace) + 1), per_epoch=len(trace) / len(parts))


def windows(trace: pd.DataFrame) -> pd.DataFrame:
    """Means over windows of 20 updates; traces that have such windows stay as they are."""
    if trace["step"].diff().median() > 1:
        return trace
    grouped = trace.groupby((trace["step"] - 1) // WINDOW)
    return grouped.mean().assign(step=grouped["step"].max(), pgd=grouped["pgd"].max())


def ours(trace: pd.DataFrame) -> int | None:
    """`co_probe.Alarm` with its defaults, given every row."""
    alarm = Alarm()
    for row in trace.itertuples():
        alarm.update(step=int(row.step), alignment=row.alignment, train_loss=row.loss, loss_gain=row.loss_gain)
    return alarm.step


def against_median(column: str, sign: int, threshold: float, relative: bool, least: int = 8) -> Detector:
    """Fires when a window differs from the median of the five before by more than a threshold.

    It is armed after `least` windows.
    """

    def detect(trace: pd.DataFrame) -> int | None:
        table = windows(trace)
        values, steps = table[column].to_numpy(), table["step"].to_numpy()
        for index in range(least, len(values)):
            if steps[index] - steps[index - 5] > 20 * WINDOW:
                continue  # a part of the trace is missing
            base = np.median(values[index - 5 : index])
            if sign * (values[index] - base) > threshold * (base if relative else 1):
                return int(steps[index])
        return None

    return detect


def periodic_pgd(every: int, fall: float) -> Detector:
    """PGD-10 on probe images about every so many updates; fires when it is so much below its best."""

    def detect(trace: pd.DataFrame) -> int | None:
        seen = trace.dropna(subset="pgd")
        seen = seen.groupby(seen["step"] // every).first()
        fallen = seen[seen["pgd"].cummax() - seen["pgd"] >= fall]
        return int(fallen["step"].iloc[0]) if len(fallen) else None

    return detect


def event(trace: pd.DataFrame) -> int | None:
    """The step of the collapse, None if there is none."""
    pgd = trace.dropna(subset="pgd")
    fallen = pgd[(pgd["pgd"] <= 0.1) & (pgd["pgd"].cummax() - pgd["pgd"] >= 0.195)]
    return int(fallen["step"].iloc[0] - fallen.get("per_epoch", pd.Series([0])).iloc[0]) if len(fallen) else None


def tuned(make: Callable[[float], Detector], traces: list[pd.DataFrame]) -> Detector:
    """The most sensitive of these detectors that has no false alarm on `traces`."""
    for threshold in np.arange(0.01, 1.5, 0.01):
        detector = make(threshold)
        if not any(is_false(detector(trace), event(trace)) for trace in traces):
            return detector
    return make(math.inf)


def is_false(alarm: int | None, collapse: int | None) -> bool:
    """Whether an alarm announces nothing."""
    return alarm is not None and (collapse is None or collapse - alarm > TOO_EARLY)


def seed_of(name: str) -> int:
    """The seed in the name of a run or a trace: fgsm-small-seed2, fgsm-2-epsilon=0.25."""
    return int(next(part.removeprefix("seed") for part in name.split("-") if part.removeprefix("seed").isdigit()))


def main() -> None:
    """Write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--public", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "alarm")
    parser.add_argument("--picture", default="fgsm-seed0", help="the run to draw [default: %(default)s]")
    arguments = parser.parse_args()
    traces: dict[str, pd.DataFrame] = {}
    for path in arguments.runs:
        if (path / "run.h5").exists():
            traces[path.name] = read_run(StoredRun(path))
        for file in sorted(path.glob("*.csv.gz")):
            traces[file.name.removesuffix(".csv.gz")] = pd.read_csv(file).rename(columns=NAMES)
    for_tuning = {name: trace for name, trace in traces.items() if seed_of(name) in TUNED_SEEDS}
    if arguments.public:
        given = {"cosine": "alignment", "train_loss": "loss", "train_acc": "accuracy", "pgd_acc": "pgd"}
        public = {str(name): part for name, part in pd.read_csv(arguments.public).rename(columns=given).groupby("run")}
        traces |= public
        for_tuning |= public
    chosen = list(for_tuning.values())
    detectors: dict[str, Detector] = {
        "co_probe.Alarm": ours,
        "fall of alignment by more than 0.166": against_median("alignment", -1, 0.16633, relative=False),
        "rise of training accuracy, tuned": tuned(lambda t: against_median("accuracy", 1, t, False, least=20), chosen),
        "relative fall of training loss, tuned": tuned(lambda t: against_median("loss", -1, t, True, least=20), chosen),
        "PGD-10 every 100 updates, fall of 10 points": periodic_pgd(100, 0.1),
        "PGD-10 every 100 updates, fall of 20 points": periodic_pgd(100, 0.2),
    }
    rows = []
    for name, trace in traces.items():
        collapse = event(trace)
        for title, detector in detectors.items():
            alarm = detector(trace)
            rows.append(
                {
                    "run": name,
                    "use": "tuned on" if name in for_tuning else "held out",
                    "detector": title,
                    "collapse": collapse,
                    "alarm": alarm,
                    "false": is_false(alarm, collapse),
                }
            )
    table = pd.DataFrame(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "alarm.csv", index=False, float_format="%.0f")
    (arguments.out / "alarm.md").write_text(markdown(table), encoding="utf-8")
    if arguments.picture in traces:
        draw(traces[arguments.picture], arguments.out / "alarm.png")


def markdown(table: pd.DataFrame) -> str:
    """The counts by detector, for runs that were tuned on and for those held out."""
    lines = [
        "| runs | detector | collapses announced | lead in updates: median (all) | false alarms | too early |",
        "|---|---|---|---|---|---|",
    ]
    for (use, title), part in table.groupby(["use", "detector"], sort=False):
        collapsed, healthy = part[part["collapse"].notna()], part[part["collapse"].isna()]
        early = collapsed[collapsed["false"]]
        lead = (collapsed["collapse"] - collapsed["alarm"])[~collapsed["false"]].dropna()
        in_time = sorted(int(value) for value in lead if value > 0)
        told = f"{np.median(in_time):.0f} ({', '.join(map(str, in_time))})" if in_time else "–"
        lines.append(
            f"| {use} | {title} | {len(in_time)} of {len(collapsed)} | {told} "
            f"| {healthy['alarm'].notna().sum()} of {len(healthy)} | {len(early)} |"
        )
    return "\n".join(lines) + "\n"


def draw(trace: pd.DataFrame, path: Path) -> None:
    """Alignment and accuracy over the steps of a run, with the alarm and the collapse."""
    table, alarm, collapse = windows(trace), ours(trace), event(trace)
    assert alarm and collapse
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 4.2), sharex=True, layout="constrained")
    above.plot(trace["step"], trace["alignment"], color="0.8", lw=0.7)
    above.plot(table["step"], table["alignment"], color="C0", lw=1.8)
    above.set_ylabel("PertAlign")
    seen = trace.dropna(subset="pgd")
    below.plot(table["step"], table["accuracy"], color="C1", lw=1.5, label="training images, FGSM")
    below.plot(seen["step"], seen["pgd"], color="C3", lw=1.5, label="test images, PGD-10")
    below.set(ylabel="accuracy", xlabel="optimizer step", ylim=(0, 1.15))
    for axes in (above, below):
        axes.axvline(alarm, color="black", lw=1.2)
        axes.axvline(collapse, color="C3", lw=1.2, ls="--")
        axes.spines[["top", "right"]].set_visible(False)
    above.annotate(f"alarm, step {alarm}", (alarm, 0.97), ha="right", xytext=(-4, 0), textcoords="offset points")
    above.annotate(
        f"collapse, step {collapse}", (collapse, 0.97), color="C3", xytext=(4, 0), textcoords="offset points"
    )
    below.legend(frameon=False, loc="upper left", fontsize=8, ncols=2)
    above.set_xlim(max(0, collapse - 420), collapse + 220)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

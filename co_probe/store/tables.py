"""Tables that are derived from a run, in addition to those stored by probes."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pandas as pd

from co_probe.config.indicators import EPOCH_INDICATORS, STEP_INDICATORS
from co_probe.numerics.change import window_means, window_size
from co_probe.numerics.statistics import wilson
from co_probe.store.schema import PROPORTIONS


class Recorded(Protocol):
    """Part of a run that the tables use."""

    @property
    def name(self) -> str:
        """Name of the run in tables and figures."""

    @property
    def epochs(self) -> list[int]:
        """The finished epochs, from 1, sorted."""

    @property
    def probe_set(self) -> Mapping[str, Any]:
        """Numbers of the probe images, by split."""

    def metrics(self, epoch: int) -> dict[str, float]:
        """Return the training metrics of an epoch."""

    def metric(self, name: str) -> dict[int, float]:
        """Return one metric, {epoch: value}."""

    def method_parameters(self, epoch: int) -> dict[str, dict[str, float]]:
        """Return learned parameters of the method at an epoch."""

    def step_series(self, epoch: int) -> Mapping[str, Any]:
        """Return the series over optimizer steps of an epoch."""

    def labels(self, epoch: int, probe: str) -> dict[str, Any]:
        """Return the leading columns of every tidy row."""

    def frame(self, probe: str, **settings: Any) -> pd.DataFrame:
        """Return the stored table of a probe."""


def metrics(run: Recorded) -> pd.DataFrame:
    """Make the tidy table of training metrics, with intervals of accuracies."""
    rows, sizes = [], {split: len(images) for split, images in run.probe_set.items()}
    for epoch in run.epochs:
        measured = run.metrics(epoch)
        for name, value in measured.items():
            if name.endswith(("_low", "_high")):
                continue
            n = sizes.get("validation" if name.startswith("validation_") else "test", 0)
            low, high = measured.get(f"{name}_low", value), measured.get(f"{name}_high", value)
            if name in PROPORTIONS and n:
                low, high = wilson(value, n)
            about = {"quantity": name, "value": value, "low": low, "high": high, "n": n}
            rows.append(run.labels(epoch, "metrics") | about)
    return pd.DataFrame(rows)


def step_sizes(run: Recorded) -> pd.DataFrame:
    """Make the tidy table of APART's learned step sizes, by layer."""
    rows = []
    for epoch in run.epochs:
        for name, value in run.method_parameters(epoch).get("alpha", {}).items():
            about = {"layer": name, "value": value, "low": value, "high": value, "n": 1}
            rows.append(run.labels(epoch, "steps") | about)
    return pd.DataFrame(rows)


def step_indicators(run: Recorded) -> pd.DataFrame:
    """Average step indicators over windows: columns run, indicator, epoch (as a fraction), value."""
    rows = [pd.DataFrame(columns=["run", "indicator", "epoch", "value"])]
    series = {epoch: run.step_series(epoch) for epoch in run.epochs}
    for name in STEP_INDICATORS:
        for epoch in (epoch for epoch in series if name in series[epoch]):
            values = series[epoch][name]
            means, ends = window_means(values, min(len(values), window_size(len(values))))
            at = epoch - 1 + ends / len(values)
            rows.append(pd.DataFrame({"run": run.name, "indicator": name, "epoch": at, "value": means}))
    return pd.concat(rows[1:] or rows, ignore_index=True)


def epoch_indicators(run: Recorded) -> pd.DataFrame:
    """Collect stored indicators per epoch: columns run, probe, quantity, epoch, value.

    There is one series per quantity: with the probe's default settings, else the newest value of each epoch.
    """
    gaps = run.metric("gap")
    rows = [("gap", "gap", epoch, value) for epoch, value in gaps.items()]
    for probe, quantity in EPOCH_INDICATORS:
        frame = run.frame(probe)
        if not len(frame) or (probe == "gap" and gaps):
            continue
        usual = run.frame(probe, **({"reference": None} if probe == "strength" else {"split": "test"}))
        frame = usual if len(usual) else frame
        frame = frame[(frame["quantity"] == quantity) & (frame["epoch"] > 0)].drop_duplicates("epoch", keep="last")
        values = frame.sort_values("epoch")[["epoch", "value"]].itertuples(index=False)
        rows += [(probe, quantity, int(epoch), value) for epoch, value in values]
    found = pd.DataFrame(rows, columns=["probe", "quantity", "epoch", "value"])
    found.insert(0, "run", run.name)
    return found


TABLES: dict[str, Callable[[Any], pd.DataFrame]] = {
    "metrics": metrics,
    "steps": step_sizes,
    "step-indicators": step_indicators,
    "epoch-indicators": epoch_indicators,
}
"""Name in `StoredRun.frame` -> function that makes the table."""

"""co-probe: did a single-step adversarial training run catastrophically overfit, when, and why?

Every command of the command line is a function here. Names are imported on first use, so that `co-probe --help` and
figures from stored tables do not import torch. Studies add further names (`co_probe.config.exports`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from co_probe import indicators as indicators
    from co_probe.benchmarks import bench as bench
    from co_probe.config.plugins import allow as allow
    from co_probe.diagnosis.diagnose import diagnose as diagnose
    from co_probe.diagnosis.stored import verdict_of as verdict_of
    from co_probe.diagnosis.verdict import Verdict as Verdict
    from co_probe.diagnosis.verdict import verdict as verdict
    from co_probe.indicators.alarm import Alarm as Alarm
    from co_probe.monitoring.monitor import Monitor as Monitor
    from co_probe.probes.eval import evaluate as evaluate
    from co_probe.probes.gap import gap as gap
    from co_probe.probes.named import probe as probe
    from co_probe.probes.strength import strength as strength
    from co_probe.reporting.drawing import draw as draw
    from co_probe.reporting.leaderboard import leaderboard as leaderboard
    from co_probe.reporting.report import report as report
    from co_probe.runs import Run as Run
    from co_probe.runs import open_run as open_run
    from co_probe.runs.checkpoints import export as export
    from co_probe.store.pack import pack as pack
    from co_probe.sweeps.grid import Grid as Grid
    from co_probe.sweeps.sweep import sweep as sweep
    from co_probe.training.importing import import_run as import_run
    from co_probe.training.train import train as train

__all__ = [
    "Alarm",
    "Grid",
    "Monitor",
    "Run",
    "Verdict",
    "allow",
    "bench",
    "diagnose",
    "draw",
    "evaluate",
    "export",
    "gap",
    "import_run",
    "indicators",
    "leaderboard",
    "open_run",
    "pack",
    "probe",
    "report",
    "strength",
    "sweep",
    "train",
    "verdict",
    "verdict_of",
]


def __dir__() -> list[str]:
    from co_probe.config.exports import EXPORTS

    return sorted({*globals(), *__all__, *EXPORTS})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from co_probe.config.version import package_version

        return package_version()
    if name == "indicators":
        return import_module("co_probe.indicators")
    if not name.startswith("_"):
        from co_probe.config.exports import EXPORTS

        if name in EXPORTS:
            return EXPORTS.target(name)
    raise AttributeError(f"module 'co_probe' has no attribute '{name}'")

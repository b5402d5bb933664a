"""Registry of the public functions and classes, `co_probe.NAME`: names and locations, as text."""

from co_probe.config.registry import Registry

EXPORTS = Registry(
    "public name",
    {
        "Alarm": "co_probe.indicators.alarm:Alarm",
        "allow": "co_probe.config.plugins:allow",
        "bench": "co_probe.benchmarks:bench",
        "diagnose": "co_probe.diagnosis.diagnose:diagnose",
        "draw": "co_probe.reporting.drawing:draw",
        "evaluate": "co_probe.probes.eval:evaluate",
        "export": "co_probe.runs.checkpoints:export",
        "gap": "co_probe.probes.gap:gap",
        "Grid": "co_probe.sweeps.grid:Grid",
        "import_run": "co_probe.training.importing:import_run",
        "leaderboard": "co_probe.reporting.leaderboard:leaderboard",
        "Monitor": "co_probe.monitoring.monitor:Monitor",
        "open_run": "co_probe.runs.run:open_run",
        "pack": "co_probe.store.pack:pack",
        "probe": "co_probe.probes.named:probe",
        "Run": "co_probe.runs.run:Run",
        "report": "co_probe.reporting.report:report",
        "strength": "co_probe.probes.strength:strength",
        "sweep": "co_probe.sweeps.sweep:sweep",
        "train": "co_probe.training.train:train",
        "Verdict": "co_probe.diagnosis.verdict:Verdict",
        "verdict": "co_probe.diagnosis.verdict:verdict",
        "verdict_of": "co_probe.diagnosis.stored:verdict_of",
    },
)

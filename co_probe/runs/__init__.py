"""Runs as live objects, and export of checkpoints."""

from co_probe.runs.fitting import load_weights
from co_probe.runs.run import Run, open_run

__all__ = ["Run", "load_weights", "open_run"]

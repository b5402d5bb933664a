"""Probes evaluate an indicator at every epoch of a run and store a tidy table."""

from co_probe.config.probes import PROBES

__all__ = ["PROBES"]

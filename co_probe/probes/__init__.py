"""Probes: each evaluates an indicator at every epoch of a run and stores a tidy table."""

from co_probe.config.probes import PROBES

__all__ = ["PROBES"]

"""`co_probe.lightning.CatastrophicOverfitting`: the monitor as a Lightning callback."""

from co_probe.monitoring.lightning import CatastrophicOverfitting

__all__ = ["CatastrophicOverfitting"]

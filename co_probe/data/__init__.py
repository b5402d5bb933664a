"""Data sets, by name."""

from co_probe.registry import Registry

DATA = Registry("data set", {"digits": "co_probe.data.digits:digits"})

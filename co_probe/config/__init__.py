"""Settings: schema, registries, presets, labels, plug-ins."""

from co_probe.config.settings import Config, merge, parse_assignment, parse_number

__all__ = ["Config", "merge", "parse_assignment", "parse_number"]

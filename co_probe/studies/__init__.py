"""Studies: data sets, models, methods, probes and figures that are registered from outside the core.

A study is a package with a function `register()`, which enters what the study adds into the registries as text. It
imports neither torch nor matplotlib, since `co_probe` calls it when it is imported.
"""

from co_probe.studies import injection, memorisation


def register() -> None:
    """Register the studies that come with co-probe."""
    injection.register()
    memorisation.register()

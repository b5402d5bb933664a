"""Studies: data sets, models, methods, probes, figures, commands and functions, registered from outside the core.

A study is a package with a function `register()`, which enters what the study adds into the registries as text. It
imports neither torch nor matplotlib, since it is called when a registry is first read, as for `co-probe --help`.

A study of another distribution names its function as an entry point of the group `co_probe.studies`, so that the
command line and the processes of a sweep know it too:

    [project.entry-points."co_probe.studies"]
    my_study = "my_study:register"
"""

import warnings
from importlib.metadata import entry_points

from co_probe.errors import CoProbeWarning
from co_probe.studies import injection, memorisation

GROUP = "co_probe.studies"


def register() -> None:
    """Register the studies that come with co-probe, and those of installed distributions."""
    injection.register()
    memorisation.register()
    for entry in entry_points(group=GROUP):
        try:
            entry.load()()
        except Exception as error:  # of any kind: a broken study must not take co-probe along
            warnings.warn(f"the study {entry.name} cannot be registered: {error!r}", CoProbeWarning, stacklevel=2)

"""Studies: data sets, models, methods, probes, figures, commands and functions, registered from outside the core.

A study is a package with a function `register()`, which registers components by their import paths. It imports neither
torch nor matplotlib, because it is called when a registry is first read, for example by `co-probe --help`.

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
        except Exception as error:  # of any kind: a broken study must not stop co-probe
            warnings.warn(f"the study {entry.name} cannot be registered: {error!r}", CoProbeWarning, stacklevel=2)

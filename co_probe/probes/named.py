"""Any probe by its name."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from co_probe.errors import UserError
from co_probe.probes import PROBES
from co_probe.probes.base import Probe
from co_probe.probes.runner import Progress, RunLike, measure_runs


def make_probe(name: str, **settings: Any) -> Probe:
    """The probe `name` with its `settings`. Raises UserError for a name or a setting that there is not."""
    PROBES.check(name)
    made = PROBES.make(name, **settings)
    if not isinstance(made, Probe):
        raise UserError(f"probe {name} gave {type(made).__name__}, not co_probe.probes.base.Probe")
    return made


def probe(
    name: str,
    runs: RunLike | Iterable[RunLike],
    *,
    device: str = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Measure `name` at every epoch of every run that is not stored yet.

    `name`: `alignment`, `curvature`, `spectrum`, `views`, or your own as `package.module:Name`; `runs`: paths or
    `Run`s, one or several; `settings`: those of the probe. Returns the tidy table. Raises UserError for unknown names,
    settings or runs, or a run that the probe cannot measure.

    >>> co_probe.probe("curvature", "runs/fgsm", top=3)
    """
    return measure_runs(make_probe(name, **settings), runs, device=device, progress=progress)

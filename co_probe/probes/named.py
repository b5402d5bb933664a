"""Probes by name."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from co_probe.config.probes import PROBES
from co_probe.errors import UserError
from co_probe.executor import Executor
from co_probe.probes.base import Diagnostic
from co_probe.probes.runner import Progress, measure_runs
from co_probe.probes.table import Epochs
from co_probe.store import RunLike


def make_probe(name: str | Diagnostic, **settings: Any) -> Diagnostic:
    """Make the probe `name` with its settings, without importing torch; return a probe object as is.

    Raises:
        UserError: If the name or a setting is unknown, or a probe object is combined with settings.
    """
    if isinstance(name, Diagnostic) and settings:
        raise UserError(f"the probe {name.name} has its settings already: leave {', '.join(settings)} out")
    made = name if isinstance(name, Diagnostic) else PROBES.make(name, **settings)
    if not isinstance(made, Diagnostic):
        raise UserError(f"probe {name} gave {type(made).__name__}, not co_probe.probes.base.Diagnostic")
    return made


def probe(
    name: str | Diagnostic,
    runs: RunLike | Iterable[RunLike],
    *,
    epochs: Epochs | None = None,
    device: str = "auto",
    compile: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Measure a probe at every epoch of runs where it is not stored yet, and store it.

    Args:
        name: A registered probe (`gap`, `strength`, `eval`, `alignment`, `curvature`, `spectrum`, ...), or your own as
            `package.module:Name`; or a probe with its settings, such as `Gap(against="pgd20")`.
        runs: Paths or runs, one or several.
        epochs: Epochs to measure in addition to stored ones: `all`, `best and last`, `last`, a number or numbers. If
            None, the default of the probe: all for most, best and last for `masking`.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        compile: Make and evaluate perturbations with torch.compile.
        progress: Called after each step with a label, the number of steps done, and of all steps.
        **settings: Settings of the probe. `epsilon` may be a list of norm bounds, which are measured in turn.
        executor: Executor of one task per run, with the `submit` of `concurrent.futures`; its workers must see the runs
            under the same paths. Progress is then reported per run. If None, this process measures.

    Returns:
        The tidy table.

    Raises:
        UserError: For an unknown name, setting or run, or a run that the probe cannot measure.

    Example:
        >>> co_probe.probe("gap", "runs/fgsm", against="pgd20")
        >>> co_probe.probe("curvature", ["runs/fgsm", "runs/pgd"], top=3)
    """
    several = settings.get("epsilon")
    if isinstance(several, list | tuple):
        made = [make_probe(name, **settings | {"epsilon": float(epsilon)}) for epsilon in several]
    else:
        made = [make_probe(name, **settings)]
    return pd.concat(
        [measure_runs(each, runs, epochs, device, compile, progress, executor) for each in made], ignore_index=True
    )

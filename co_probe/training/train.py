"""`train`: a run as one function call."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from co_probe.config import Config, merge, presets
from co_probe.config.plugins import PARTS, allow_typed, make_available
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.progress import progress_bar
from co_probe.runs import Run
from co_probe.runs.build import epoch_count
from co_probe.store import StoredRun
from co_probe.training.loop import Progress, epochs
from co_probe.training.metrics import EpochMetrics
from co_probe.training.starting import find_start


def resolve_config(out: Path, method: str, preset: str | None, overrides: list[dict[str, Any]], resume: bool) -> Config:
    """Make the settings of a new or resumed run.

    A resumed run has its stored settings, unless preset or `overrides` differ, which the writer of the run rejects.
    """
    METHODS.check(method)
    allow_typed(method, *overrides)
    if not (resume and (out / "run.h5").exists()):
        return _with_number(presets.configure(preset or "digits", method, *overrides))
    stored = StoredRun(out).config
    if stored.method.name != method:
        raise UserError(f"{out} is a run of {stored.method.name}, not of {method}: choose another folder")
    if preset:  # defaults of new runs may differ from those of older ones
        older = {"probe": {"validation": stored.probe.validation}}
        return _with_number(presets.configure(preset, method, *overrides, defaults=older))
    data = stored.to_dict()
    for extra in overrides:
        data = merge(data, extra)
    return _with_number(Config.from_dict(data))


def _with_number(config: Config) -> Config:
    """Replace `last` or `best` in `init_from` by the number of the epoch."""
    if config.init_from.endswith(("@last", "@best")):
        run, epoch = find_start(config.init_from)
        return replace(config, init_from=f"{run.path}@{epoch}")
    return config


def train(
    method: str | Callable[..., Any],
    /,
    *,
    preset: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    compile: bool = False,
    on_epoch: Callable[[EpochMetrics], object] | None = None,
    progress: bool | Progress = False,
    **settings: Any,
) -> Run:
    """Train a run to its end and return it.

    Args:
        method: Registered name (`fgsm`, `apart`, ...), `package.module:Name`, or a subclass of `Method`.
        preset: Name of a preset or a TOML file; `digits` if None.
        out: Folder of the run; `runs/METHOD` if None.
        resume: Continue an existing run.
        overwrite: Delete an existing run and start again.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        compile: Use torch.compile.
        on_epoch: Called with the metrics of each epoch (`co_probe.training.metrics.EpochMetrics`).
        progress: True for a progress bar on standard error, or a function that is called after each batch with the
            epoch, its number of finished images, and its number of images.
        settings: Settings that override the preset: `epochs=10`, `epsilon=8/255`, `model={"width": 32}`, and of the
            method, `method={"steps": 7}`. `init_from="runs/fgsm@30"` starts from the weights of that epoch. A class or
            a function may replace a name: `model=SmallNet`, `model={"name": SmallNet, "width": 3}`, `data=my_data`. To
            open the run in another process, it must be importable there.

    Returns:
        The finished run.

    Raises:
        UserError: If the settings, the folder or the device cannot be used.
        Diverged: If the loss is not finite.

    Example:
        >>> run = co_probe.train("fgsm", epochs=30, seed=1, out="runs/fgsm-1", progress=True)
    """
    name = method if isinstance(method, str) else make_available(method)
    folder = Path(out or Path("runs") / name.rpartition(":")[2])
    config = resolve_config(folder, name, preset, [_named(settings)], resume)
    with _shown(progress, name, config) as show:
        options: dict[str, Any] = {"device": device, "compile": compile, "progress": show}
        for metrics in epochs(config, folder, resume=resume, overwrite=overwrite, **options):
            if on_epoch:
                on_epoch(metrics)
    return Run(folder)


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace classes and functions in `settings` by their names."""
    named = dict(settings)
    for part in PARTS:
        value = named.get(part)
        if isinstance(value, Mapping) and callable(value.get("name")):
            named[part] = {**value, "name": make_available(value["name"])}
        elif callable(value):
            named[part] = make_available(value)
    return named


@contextmanager
def _shown(progress: bool | Progress, name: str, config: Config) -> Iterator[Progress | None]:
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    planned = epoch_count(config)
    with progress_bar(name) as show:

        def within_epoch(epoch: int, done: int, total: int) -> None:
            if sys.stderr.isatty():
                show(f"epoch {epoch}/{planned}, images", done, total)
            elif done == total:  # one line per epoch in a log
                show("epochs", epoch, planned)

        yield within_epoch

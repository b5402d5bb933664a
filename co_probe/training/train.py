"""A whole run as one function call."""

from pathlib import Path
from typing import Any

from co_probe.config import Config, merge, presets
from co_probe.config.plugins import allow_typed
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.runs import Run
from co_probe.store import StoredRun
from co_probe.training.loop import Progress, epochs


def settle(out: Path, method: str, preset: str | None, overrides: list[dict[str, Any]], resume: bool) -> Config:
    """The settings of a run to start; or of one to go on with: those on disk, where neither preset nor `overrides` say
    otherwise (and if they do, the run's writer will refuse).
    """
    METHODS.check(method)
    allow_typed(method, *overrides)
    if preset or not (resume and (out / "run.h5").exists()):
        return presets.configure(preset or "digits", method, *overrides)
    stored = StoredRun(out).config
    if stored.method.name != method:
        raise UserError(f"{out} is a run of {stored.method.name}, not of {method}: choose another --out")
    data = stored.to_dict()
    for extra in overrides:
        data = merge(data, extra)
    return Config.from_dict(data)


def train(
    method: str,
    *,
    preset: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    compile: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Train a run to its end and return it.

    `method`: `fgsm`, `apart`, ..., or your own as `package.module:Name`; `preset`: a name or a TOML file, `digits` if
    not given; `out`: the run's folder, `runs/METHOD` if not given; `compile`: run training steps through
    torch.compile; `settings`: over the preset, for example
    `epochs=10`, `epsilon=8/255`, `model={"width": 32}`. Raises UserError for what cannot be used, Diverged if the loss
    is no longer finite.

    >>> run = co_probe.train("fgsm", epochs=30, seed=1, out="runs/fgsm-1")
    """
    folder = Path(out or Path("runs") / method.rpartition(":")[2])
    config = settle(folder, method, preset, [settings], resume)
    options: dict[str, Any] = {"device": device, "compile": compile, "progress": progress}
    for _ in epochs(config, folder, resume=resume, overwrite=overwrite, **options):
        pass
    return Run(folder)

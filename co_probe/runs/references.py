"""Reference models: an exported file, an epoch of a run, a module, or a foreign checkpoint."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from co_probe.data.normalisation import Normalisation, as_normalisation
from co_probe.errors import UserError
from co_probe.runs.checkpoints import Reference, fingerprint, is_exported, load_reference
from co_probe.runs.foreign import ModelLike, class_name, resolve_model
from co_probe.runs.run import Run
from co_probe.runs.state_dicts import fit, read_state_dict
from co_probe.store import RunInfo

RUN_AT_EPOCH = re.compile(r"(.+)@(\d+|last|best)")


def find_reference(
    given: Any,
    *,
    model: ModelLike | None = None,
    normalise: Any = None,
    like: RunInfo | None = None,
    device: str | torch.device = "cpu",
) -> Reference:
    """Load the reference model that a user specifies.

    Args:
        given: A `.pt` file of `export`; `RUN@EPOCH`, the epoch a number, `last` or `best`; a module; a checkpoint file
            of another program; or a `Reference`, which is returned as is.
        model: The network of a run or a checkpoint of another program: a module, a class, a function or a name.
        normalise: Normalisation that the network of another program expects: (mean, std) or the name of a data set;
            None for none.
        like: Facts about the measured run, whose images and classes a network of another program is built for.
        device: Device of the model.

    Raises:
        UserError: The file, run or epoch does not exist, or its weights do not fit the model.
        DamagedFile: The file cannot be read.

    Example:
        >>> find_reference("runs/pgd@best").name
        'pgd@best'
    """
    if isinstance(given, Reference):
        return given
    if isinstance(given, nn.Module):
        return _of_module(given, normalise, like, device)
    if isinstance(given, str | Path) and (parts := RUN_AT_EPOCH.fullmatch(str(given))) and not Path(given).exists():
        return _of_run(Run(parts[1], model=model), parts[2], device)
    if not isinstance(given, str | Path):
        raise UserError(f"the reference must be a file, RUN@EPOCH or a module, not {type(given).__name__}")
    if model is None or is_exported(given):
        return load_reference(given, device, model=model)
    return _of_checkpoint(Path(given), model, normalise, like, device)


def _of_module(module: nn.Module, normalise: Any, like: RunInfo | None, device: str | torch.device) -> Reference:
    constants = _constants(normalise, like)
    mean, std = (constants.mean, constants.std) if constants else (None, None)
    model = resolve_model(module, channels=0, classes=0, mean=mean, std=std).model
    name = class_name(module).rpartition(":")[2]
    identity = fingerprint(module.state_dict(), mean, std)
    return Reference(model.to(device).eval(), name, identity, None, None, _bounds(like), True, constants)


def _of_run(run: Run, epoch: str, device: str | torch.device) -> Reference:
    number = {"last": lambda: run.last_epoch, "best": lambda: run.best_epoch}.get(epoch, lambda: int(epoch))()
    model = run.load_model(number, device)
    constants = (run.info.mean, run.info.std) if run.info.model.foreign else ()  # otherwise they are among the weights
    weights = {name: torch.from_numpy(value) for name, value in run.weights(number).items()}
    identity = fingerprint(weights, *constants)
    info = run.info
    return Reference(model, f"{run.name}@{epoch}", identity, info.shape, info.classes, info.bounds, run_id=info.run_id)


def _of_checkpoint(
    path: Path, model: ModelLike, normalise: Any, like: RunInfo | None, device: str | torch.device
) -> Reference:
    if like is None and not isinstance(model, nn.Module):
        raise UserError("the model of a reference is built for the images of a run: open a run, or pass a module")
    state = read_state_dict(path)
    constants = _constants(normalise, like)
    mean, std = (constants.mean, constants.std) if constants else (None, None)
    built = resolve_model(
        model,
        channels=like.shape[0] if like else 0,
        classes=len(like.classes) if like else 0,
        mean=mean,
        std=std,
    )
    fitted = fit(state, built.model, optional=built.own)
    built.model.load_state_dict(fitted.weights)
    identity = fingerprint(fitted.weights, mean, std)
    return Reference(built.model.to(device).eval(), path.name, identity, None, None, _bounds(like), True, constants)


def _constants(normalise: Any, like: RunInfo | None) -> Normalisation | None:
    return None if normalise is None else as_normalisation(normalise, like.shape[0] if like else None)


def _bounds(like: RunInfo | None) -> tuple[float, float]:
    return like.bounds if like else (0.0, 1.0)

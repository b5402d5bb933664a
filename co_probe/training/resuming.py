"""Restoring the training state of a run."""

import torch
from torch import Tensor, nn

from co_probe.config.optimizers import Optimizer
from co_probe.errors import DamagedFile, UserError, one_line
from co_probe.methods.base import Method
from co_probe.runs import load_weights
from co_probe.store import StoredRun
from co_probe.store.schema import whole
from co_probe.training.averaging import WeightAverage
from co_probe.training.early_stop import EarlyStop
from co_probe.training.following import Follower
from co_probe.training.group import Group
from co_probe.training.optimizers import restore_optimizer
from co_probe.training.recorder import Recorder
from co_probe.training.state import Tensors, tensors


def restore(
    recorder: Recorder | Follower,
    group: Group,
    model: nn.Module,
    average: WeightAverage | None,
    optimizer: torch.optim.Optimizer,
    settings: Optimizer,
    method: Method,
    early_stop: EarlyStop | None = None,
) -> None:
    """Restore model, optimizer, method and rules to their state after the newest finished epoch.

    Args:
        recorder: The run.
        group: The processes, as many as trained the run before.
        model: Network of the run.
        average: Moving average of its weights, or None.
        optimizer: Optimizer made from `settings`.
        settings: Settings of the optimizer.
        method: Newly set-up method.
        early_stop: Early-stopping rule, or None.

    Raises:
        UserError: The resume file is missing, or another number of processes trained the run.
        DamagedFile: A file does not verify, or its state does not fit the optimizer or the method.
    """
    stored = StoredRun(recorder.path)
    if (before := str(stored.environment.get("processes", 1))) != str(group.size):
        raise UserError(
            f"{recorder.path} was trained by {one_line(before)} process(es), onto which its images are dealt: go on "
            f"with as many, not {group.size}"
        )
    source = f"{recorder.path}, epoch {recorder.last}"
    load_weights(model, tensors(stored.weights(recorder.last)), source)
    state = recorder.resume_state()
    if average:
        try:
            steps = whole(state["ema"]["steps"], "the number of averaged steps", 0)
        except (LookupError, TypeError, ValueError) as error:
            raise DamagedFile(f"{source}: the resume file has no number of averaged steps") from error
        averaged = StoredRun(recorder.path, weights="ema").weights(recorder.last)
        average.load(tensors(averaged), steps, f"{source}, moving average")
    if early_stop:
        early_stop.load(state, source)
    restore_optimizer(model, optimizer, settings, {name: tensors(group) for name, group in state.items()}, source)
    _restore_method(method, tensors(state.get("method", {})), source)


def _restore_method(method: Method, state: Tensors, source: str) -> None:
    """Restore the state of a method after comparing shapes; tensors without rows depend on the batch size."""
    for name, like in method.state_dict().items():
        value = state.get(name)
        if not isinstance(like, Tensor):
            continue
        shape, seen = tuple(like.shape), tuple(value.shape) if isinstance(value, Tensor) else None
        if seen is None or (seen != shape and not (shape[:1] == (0,) and seen[1:] == shape[1:])):
            raise DamagedFile(f"{source}: the resume file has no {name} of the method, of shape {shape}")
    try:
        method.load_state_dict(dict(state))
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise DamagedFile(f"{source}: the resume file does not fit the method: {one_line(error)}") from error

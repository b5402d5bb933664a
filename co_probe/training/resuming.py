"""Going on with a run where it stopped."""

import torch
from torch import Tensor, nn

from co_probe.config.optimizers import Optimizer
from co_probe.errors import DamagedFile, one_line
from co_probe.methods.base import Method
from co_probe.runs import load_weights
from co_probe.store import StoredRun
from co_probe.training.recorder import Recorder
from co_probe.training.state import STORED_AS, Tensors, tensors


def restore(
    recorder: Recorder, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Optimizer, method: Method
) -> None:
    """Bring everything that learns to where it was after the newest finished epoch.

    Args:
        recorder: The run.
        model: Its network.
        optimizer: What `settings` made.
        settings: Settings of the optimizer.
        method: Newly set up.

    Raises:
        UserError: The resume file is missing.
        DamagedFile: A file does not verify, or has another state than the optimizer or the method would.
    """
    source = f"{recorder.path}, epoch {recorder.last}"
    load_weights(model, tensors(StoredRun(recorder.path).weights(recorder.last)), source)
    state = recorder.resume_state()
    for key in settings.state:
        _restore_optimizer(model, optimizer, key, tensors(state.get(STORED_AS.get(key, key), {})), source)
    _restore_method(method, tensors(state.get("method", {})), source)


def _restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, key: str, stored: Tensors, source: str
) -> None:
    """Set one tensor of the optimizer's state, such as the momentum, of exactly those parameters that are trained."""
    what = STORED_AS.get(key, key)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, value in stored.items():
        if name not in parameters:
            raise DamagedFile(f"{source}: the resume file has a {what} of {name}, which trains with none")
        like = parameters[name]
        dtype, shape = like.dtype, tuple(like.shape)
        if key == "step":  # of Adam: the number of its steps
            dtype, shape = torch.float32, ()
        if not isinstance(value, Tensor) or (value.dtype, tuple(value.shape)) != (dtype, shape):
            raise DamagedFile(f"{source}: the {what} of {name} is not {dtype} of shape {shape}")
    if missing := sorted(parameters.keys() - stored.keys()):
        raise DamagedFile(f"{source}: the resume file has no {what} of {missing[0]}")
    for name, value in stored.items():
        # Laid out like its parameter, as the optimizer itself would have it; it holds the number of steps on the CPU.
        like = value if key == "step" else parameters[name]
        optimizer.state[parameters[name]][key] = torch.empty_like(like).copy_(value).detach()


def _restore_method(method: Method, state: Tensors, source: str) -> None:
    """Restore what a method needs, whose tensors have the shapes of its own; those without rows grow with the batch."""
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

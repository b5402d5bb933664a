"""Going on with a run where it stopped."""

import torch
from torch import Tensor, nn

from co_probe.errors import DamagedFile, one_line
from co_probe.methods.base import Method
from co_probe.runs import load_weights
from co_probe.store import StoredRun
from co_probe.training.recorder import Recorder
from co_probe.training.state import Tensors, tensors


def restore(recorder: Recorder, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method) -> None:
    """Bring everything that learns to where it was after the newest finished epoch.

    Raises:
        UserError: The resume file is missing.
        DamagedFile: A file does not verify, or has other momenta than the optimizer would, or another state than the
            method.
    """
    source = f"{recorder.path}, epoch {recorder.last}"
    load_weights(model, tensors(StoredRun(recorder.path).weights(recorder.last)), source)
    state = recorder.resume_state()
    _restore_momenta(model, optimizer, tensors(state.get("momentum", {})), source)
    _restore_method(method, tensors(state.get("method", {})), source)


def _restore_momenta(model: nn.Module, optimizer: torch.optim.Optimizer, momentum: Tensors, source: str) -> None:
    """Set the momentum of exactly those parameters that train with one."""
    uses = {id(p): group["momentum"] != 0 for group in optimizer.param_groups for p in group["params"]}
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad and uses.get(id(p))}
    for name, buffer in momentum.items():
        if name not in parameters:
            raise DamagedFile(f"{source}: the resume file has a momentum of {name}, which trains with none")
        like = parameters[name]
        if not isinstance(buffer, Tensor) or (buffer.dtype, buffer.shape) != (like.dtype, like.shape):
            raise DamagedFile(f"{source}: the momentum of {name} is not {like.dtype} of shape {tuple(like.shape)}")
    if missing := sorted(parameters.keys() - momentum.keys()):
        raise DamagedFile(f"{source}: the resume file has no momentum of {missing[0]}")
    for name, buffer in momentum.items():
        # Laid out like its parameter, as the optimizer itself would have it.
        optimizer.state[parameters[name]]["momentum_buffer"] = torch.empty_like(parameters[name]).copy_(buffer).detach()


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

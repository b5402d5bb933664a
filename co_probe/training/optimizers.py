"""PyTorch's optimizers from settings, and their state in resume files."""

from collections.abc import Iterable
from importlib import import_module

import torch
from torch import Tensor, nn

from co_probe.config.optimizers import Optimizer
from co_probe.errors import DamagedFile
from co_probe.training.state import Tensors

STORED_AS = {"momentum_buffer": "momentum"}  # PyTorch's name -> name in resume files, where they differ


def make_optimizer(settings: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make PyTorch's optimizer; the learning rate is set before each step."""
    module, _, name = settings.torch_class.partition(":")
    made = getattr(import_module(module), name)(parameters, lr=settings.learning_rate, **settings.arguments())
    assert isinstance(made, torch.optim.Optimizer)
    return made


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Return the state of the optimizer, {name of the tensor: {parameter: tensor}}."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found.setdefault(STORED_AS.get(key, key), {})[name] = value
    return found


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: Optimizer, state: dict[str, Tensors], source: str
) -> None:
    """Restore what `optimizer_state` returned.

    Raises:
        DamagedFile: The state does not fit this optimizer and model.
    """
    for key in settings.state:
        _restore(model, optimizer, key, state.get(STORED_AS.get(key, key), {}), source)


def _restore(model: nn.Module, optimizer: torch.optim.Optimizer, key: str, stored: Tensors, source: str) -> None:
    """Restore one tensor of the optimizer's state, such as the momentum, for all trained parameters."""
    what = STORED_AS.get(key, key)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, value in stored.items():
        if name not in parameters:
            raise DamagedFile(f"{source}: the resume file has a {what} of {name}, which trains with none")
        like = parameters[name]
        dtype, shape = like.dtype, tuple(like.shape)
        if key == "step":  # Adam's number of steps
            dtype, shape = torch.float32, ()
        if not isinstance(value, Tensor) or (value.dtype, tuple(value.shape)) != (dtype, shape):
            raise DamagedFile(f"{source}: the {what} of {name} is not {dtype} of shape {shape}")
    if missing := sorted(parameters.keys() - stored.keys()):
        raise DamagedFile(f"{source}: the resume file has no {what} of {missing[0]}")
    for name, value in stored.items():
        # Same layout as the parameter, as in the optimizer itself; the number of steps is on the CPU.
        like = value if key == "step" else parameters[name]
        optimizer.state[parameters[name]][key] = torch.empty_like(like).copy_(value).detach()

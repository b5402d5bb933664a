"""How a model computes: in which precision, and compiled or as it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BACKEND = "inductor"
# Variants differ in batch size, mode, and what needs a gradient. They belong to the class of a model: one model's might
# serve another that has APART's hooks, if they were not told to look.
COMPILER = {"recompile_limit": 64, "skip_nnmodule_hook_guards": False}


def resolve(precision: str, device: torch.device) -> str:
    """What `auto` means on `device`: `bfloat16` on a GPU that computes in it, else `float32`; other names are kept."""
    if precision != "auto":
        return precision
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


class Execution:
    """What stands in the place of a model's `forward`; the logits that it returns are float32 (or float64).

    In `bfloat16`, convolutions and matrix products are computed in it (autocast), weights and BatchNorm's statistics
    are float32, and so is everything outside of the model: losses, perturbations, step sizes, gradients.
    With `backend`, the network and its backward pass are compiled wherever `compiling` is on, one variant a batch size.
    """

    def __init__(self, model: nn.Module, precision: str, backend: str | None = None):
        self.network, self.precision, self.compiling = model.forward, precision, False
        self.compiled: Callable[[Tensor], Tensor] | None = None
        if backend:
            on_gpu = next(model.parameters()).device.type == "cuda"
            # CUDA graphs: what a graph returns is overwritten by its next replay, which is safe here because logits
            # are copied, and no other output outlives the step (input gradients, and weight gradients until zero_grad).
            mode = "reduce-overhead" if on_gpu and backend == "inductor" else None
            self.compiled = torch.compile(self.network, backend=backend, dynamic=False, mode=mode)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            if self.compiled and self.compiling:
                with torch._dynamo.config.patch(COMPILER):
                    logits = self.compiled(x)
            else:
                logits = self.network(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)


def execute(model: nn.Module, precision: str, *, compiled: bool = False) -> None:
    """Let `model` compute in `precision` (`float32` or `bfloat16`) and, inside `compiling`, compiled."""
    if precision != "float32" or compiled:
        model.forward = Execution(model, precision, BACKEND if compiled else None)  # type: ignore[assignment]


@contextmanager
def compiling(model: nn.Module, on: bool = True) -> Iterator[None]:
    """Inside, `model` runs compiled if `execute` was asked for that (and `on` is true).

    Elsewhere it does not: what is called seldom, and in many batch sizes, is not worth the wait.
    """
    execution = model.forward
    if not (isinstance(execution, Execution) and execution.compiled):
        yield
        return
    before, execution.compiling = execution.compiling, on
    try:
        yield
    finally:
        execution.compiling = before


def is_compiling(model: nn.Module) -> bool:
    """Whether a call of `model` would run compiled code now."""
    return isinstance(model.forward, Execution) and model.forward.compiling


@contextmanager
def input_gradients_only(model: nn.Module) -> Iterator[None]:
    """Inside, compiled code computes no gradients for weights: its backward pass gives all that could be asked for.

    Plain code computes only what is asked for, and is left alone.
    """
    learning = [p for p in model.parameters() if p.requires_grad] if is_compiling(model) else []
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()

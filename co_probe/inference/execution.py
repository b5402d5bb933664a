"""How a model computes: in which precision, and compiled or as it is."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from co_probe.attacks.base import frozen_weights

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
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA where none is used
            on_gpu = next(model.parameters()).device.type == "cuda"
            # CUDA graphs: what a graph returns is overwritten by its next replay, which is safe here because logits
            # are copied, and no other output outlives the step (input gradients, and weight gradients until zero_grad).
            # Nothing is overwritten as long as a backward pass that needs it is to come, and none has been run since.
            mode = "reduce-overhead" if on_gpu and backend == "inductor" else None
            self.compile = partial(torch.compile, backend=backend, dynamic=False, mode=mode)
            self.compiled = self.compile(self.network)
        self.whole: dict[Callable, Callable[..., Tensor]] = {}  # what `as_one` was asked for, compiled

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            # In this order: `as_one` compiles this with `compiling` off, and old compilers know no truth of a method.
            if self.compiling and self.compiled:
                with torch._dynamo.config.patch(COMPILER):
                    logits = self.compiled(x)
            else:
                logits = self.network(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)


def execute(model: nn.Module, precision: str, *, compiled: bool = False) -> None:
    """Let `model` compute in `precision` (`float32` or `bfloat16`) and, inside `compiling`, compiled."""
    if precision != "float32" or compiled:
        # A method and no object: compiled code that has it inside then serves every model of the class.
        model.forward = Execution(model, precision, BACKEND if compiled else None).forward  # type: ignore[method-assign]


def _execution(model: nn.Module) -> Execution | None:
    """What `execute` put there, if it did."""
    owner = getattr(model.forward, "__self__", None)
    return owner if isinstance(owner, Execution) else None


@contextmanager
def compiling(model: nn.Module, on: bool = True) -> Iterator[None]:
    """Inside, `model` runs compiled if `execute` was asked for that (and `on` is true).

    Elsewhere it does not: what is called seldom, and in many batch sizes, is not worth the wait.
    """
    execution = _execution(model)
    if not (execution and execution.compiled):
        yield
        return
    before, execution.compiling = execution.compiling, on
    try:
        yield
    finally:
        execution.compiling = before


def is_compiling(model: nn.Module) -> bool:
    """Whether a call of `model` would run compiled code now."""
    execution = _execution(model)
    return execution is not None and execution.compiling


def as_one(function: Callable[..., Tensor], model: nn.Module, *inputs: Tensor) -> Tensor:
    """`function(model, *inputs)`; where `model` runs compiled, all of that does, as one graph with the model in it.

    For a function that takes gradients, and whose result is differentiated in turn: compiled code can be differentiated
    but once, so the first time has to be inside of it. If one graph cannot hold the model, all of it runs plain, and a
    line on standard error says why.
    """
    execution = _execution(model)
    if not (execution and execution.compiling):
        return function(model, *inputs)
    if function not in execution.whole:
        execution.whole[function] = execution.compile(function, fullgraph=True)
    # With `compiling` off the model is traced as it is, as a part of the function.
    with compiling(model, False), torch._dynamo.config.patch(COMPILER | {"trace_autograd_ops": True}):
        try:
            return execution.whole[function](model, *inputs)
        except (torch._dynamo.exc.Unsupported, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            reason = str(error).splitlines()[0]
            print(f"second derivatives are not compiled: {reason}", file=sys.stderr, flush=True)
        execution.whole[function] = function
        return function(model, *inputs)


def input_gradients_only(model: nn.Module) -> AbstractContextManager[None]:
    """Within the context, compiled code computes no gradients for weights.

    Its backward pass computes every gradient that could be asked for; plain code computes only those that are, and is
    left alone.
    """
    return frozen_weights(model) if is_compiling(model) else nullcontext()

"""Precision and compilation of a module."""

import logging
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

BACKEND = "inductor"
# Compiled variants differ in batch size, mode, and which tensors need gradients. They are cached per class of model, so
# hooks must be guarded: otherwise code compiled for one model could be reused for another with APART's hooks.
COMPILER = {"recompile_limit": 64, "skip_nnmodule_hook_guards": False}


def resolve(precision: str, device: torch.device) -> str:
    """Resolve `auto` on `device` to `bfloat16` on a GPU that supports it, else `float32`; return other names as is."""
    if precision != "auto":
        return precision
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


class Execution:
    """The `forward` of a module in some precision, with logits in float32 (or float64).

    `bfloat16` means autocast: convolutions and matrix products use it; weights, BatchNorm statistics and everything
    outside the model (losses, perturbations, step sizes, gradients) are float32. With `backend`, the network and its
    backward pass can also run compiled, with one variant per batch size.
    """

    def __init__(self, model: nn.Module, precision: str, backend: str | None = None):
        self.network, self.precision = model.forward, precision
        self.compiled: dict[bool, Callable[..., Tensor]] = {}  # by whether weight gradients are computed
        if backend:
            logging.getLogger("torch.utils.cpp_extension").setLevel(
                logging.ERROR
            )  # it warns of missing CUDA on machines without a GPU
            on_gpu = next(model.parameters()).device.type == "cuda"
            # CUDA graphs overwrite their outputs at the next replay. This is safe because logits are copied and no
            # other output outlives the step (input gradients, and weight gradients until zero_grad). Outputs are not
            # overwritten while a backward pass that needs them is pending.
            mode = "reduce-overhead" if on_gpu and backend == "inductor" else None
            self.compile = partial(torch.compile, backend=backend, dynamic=False, mode=mode)
            self.compiled = {True: self.compile(_with_weight_gradients), False: self.compile(_with_input_gradients)}
        self.whole: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}  # compiled functions of `as_one`

    @staticmethod
    def of(model: nn.Module) -> "Execution | None":
        """Return the `Execution` of a module, or None if `execute` was not called on it."""
        owner = getattr(model.forward, "__self__", None)
        return owner if isinstance(owner, Execution) else None

    def forward(self, x: Tensor, compiled: bool = False, weight_gradients: bool = True) -> Tensor:
        """Compute logits (B, classes) of images (B, C, H, W), optionally without gradients of the weights."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            if compiled and self.compiled:
                with torch._dynamo.config.patch(COMPILER):
                    logits = self.compiled[weight_gradients](self.network, x)
            else:
                logits = self.network(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)

    def as_one(self, function: Callable[..., Tensor], model: nn.Module, *inputs: Tensor) -> Tensor:
        """Call `function(model, *inputs)` as one compiled graph, or eagerly if that fails; see `Forward.as_one`."""
        if function not in self.whole:
            self.whole[function] = self.compile(function, fullgraph=True)
        with torch._dynamo.config.patch(COMPILER | {"trace_autograd_ops": True}):
            try:
                return self.whole[function](model, *inputs)
            except (torch._dynamo.exc.Unsupported, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
                reason = str(error).splitlines()[0]
                print(f"second derivatives are not compiled: {reason}", file=sys.stderr, flush=True)
        self.whole[function] = function
        return function(model, *inputs)


# Two functions, since torch 2.11 ignores whether weights need gradients when it selects a compiled variant: an update
# pass could then leave no gradient.
def _with_weight_gradients(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return network(x)


def _with_input_gradients(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return network(x)


def execute(model: nn.Module, precision: str, *, compiled: bool = False) -> None:
    """Set the precision of a module permanently, and optionally prepare compiled execution.

    Args:
        model: The module; a direct call always runs eagerly.
        precision: `float32` (unchanged) or `bfloat16`.
        compiled: Whether `Forward(model, compiled=True)` will be used.
    """
    if precision != "float32" or compiled:
        # A bound method instead of an object, so that compiled code is shared by all models of the class.
        model.forward = Execution(model, precision, BACKEND if compiled else None).forward

"""How a module is built to compute: in which precision, and whether it can also run compiled."""

import logging
import sys
from collections.abc import Callable
from functools import partial

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
    """A module's `forward` in some precision; the logits that it returns are float32 (or float64).

    In `bfloat16`, convolutions and matrix products are computed in it (autocast), weights and BatchNorm's statistics
    are float32, and so is everything outside of the model: losses, perturbations, step sizes, gradients.
    With `backend`, the network and its backward pass can run compiled as well, one variant per batch size.
    """

    def __init__(self, model: nn.Module, precision: str, backend: str | None = None):
        self.network, self.precision = model.forward, precision
        self.compiled: dict[bool, Callable[..., Tensor]] = {}  # by whether it computes gradients of weights
        if backend:
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA where none is used
            on_gpu = next(model.parameters()).device.type == "cuda"
            # CUDA graphs: what a graph returns is overwritten by its next replay, which is safe here because logits
            # are copied, and no other output outlives the step (input gradients, and weight gradients until zero_grad).
            # Nothing is overwritten as long as a backward pass that needs it is to come, and none has been run since.
            mode = "reduce-overhead" if on_gpu and backend == "inductor" else None
            self.compile = partial(torch.compile, backend=backend, dynamic=False, mode=mode)
            self.compiled = {True: self.compile(_with_weight_gradients), False: self.compile(_with_input_gradients)}
        self.whole: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}  # what `as_one` was asked for, compiled

    @staticmethod
    def of(model: nn.Module) -> "Execution | None":
        """The one that `execute` gave the module, if it did."""
        owner = getattr(model.forward, "__self__", None)
        return owner if isinstance(owner, Execution) else None

    def forward(self, x: Tensor, compiled: bool = False, weight_gradients: bool = True) -> Tensor:
        """Logits of images (B, C, H, W), (B, classes); without `weight_gradients`, of weights that need none."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            if compiled and self.compiled:
                with torch._dynamo.config.patch(COMPILER):
                    logits = self.compiled[weight_gradients](self.network, x)
            else:
                logits = self.network(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)

    def as_one(self, function: Callable[..., Tensor], model: nn.Module, *inputs: Tensor) -> Tensor:
        """`function(model, *inputs)` as one compiled graph, or plain if that cannot be; see `Forward.as_one`."""
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


# Two functions, since torch 2.11 does not look at whether weights need a gradient when it chooses between the compiled
# variants of one: a pass that updates them then leaves no gradient.
def _with_weight_gradients(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return network(x)


def _with_input_gradients(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return network(x)


def execute(model: nn.Module, precision: str, *, compiled: bool = False) -> None:
    """Let the module compute in a precision for good, and make it ready to run compiled where it is asked to.

    Args:
        model: The module; called by itself it always runs plain.
        precision: `float32` (what it is as it stands) or `bfloat16`.
        compiled: Whether `Forward(model, compiled=True)` will be asked for.
    """
    if precision != "float32" or compiled:
        # A method and no object: compiled code that has it inside then serves every model of the class.
        model.forward = Execution(model, precision, BACKEND if compiled else None).forward

"""`Forward`: a model with the modes of its forward passes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from co_probe.attacks.base import Model, frozen_weights
from co_probe.inference.execution import Execution

BATCHNORM = ("both", "update", "eval")


@dataclass(frozen=True, eq=False)
class Forward:
    """A model with the modes of its forward passes: a callable from images (B, C, H, W) to logits (B, classes).

    It replaces the module in attacks, methods and indicators. Modes are set for the duration of a pass and restored
    afterwards. `dataclasses.replace(forward, ...)` makes an object with another mode.

    Args:
        model: The module, in its own precision. Its hooks run in every pass.
        batchnorm: `both` keeps the mode of the module: in train mode BatchNorm uses batch statistics and updates the
            running ones. `update` uses batch statistics without updating the running ones. `eval` is eval mode.
        weight_gradients: Whether weight gradients are needed. If not, compiled code does not compute them; otherwise
            its backward pass computes all gradients. Eager code is not affected.
        compiled: Run compiled code, for which the module must have been prepared (`execution.execute`). Compilation
            pays off for many passes in few batch sizes.

    Raises:
        ValueError: If the mode is unknown, or the module was not prepared for compiled code.

    Example:
        >>> forward = Forward(model, batchnorm="eval")
        >>> delta = FGSM(epsilon=8 / 255)(forward, x, y)
    """

    model: nn.Module
    batchnorm: str = "both"
    weight_gradients: bool = True
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.batchnorm not in BATCHNORM:
            raise ValueError(f"batchnorm must be 'both', 'update' or 'eval', not {self.batchnorm!r}")
        if self.compiled and not (self._execution and self._execution.compiled):
            raise ValueError("the model was not built to run compiled: execute(model, precision, compiled=True)")

    @property
    def _execution(self) -> Execution | None:
        return Execution.of(self.model)

    @staticmethod
    def of(model: Model) -> "Forward":
        """Return `model` itself if it is a `Forward`, else a `Forward` of the module in its current mode.

        Raises:
            TypeError: If it is neither.
        """
        if isinstance(model, Forward):
            return model
        if isinstance(model, nn.Module):
            return Forward(model)
        raise TypeError(f"the model must be an nn.Module or a Forward, not {type(model).__name__}")

    def __call__(self, x: Tensor) -> Tensor:
        """Compute logits (B, classes) of images (B, C, H, W)."""
        spared = self.compiled and not self.weight_gradients
        with self.as_module() as model, frozen_weights(model) if spared else nullcontext():
            return model(x, compiled=True, weight_gradients=self.weight_gradients) if self.compiled else model(x)

    def for_perturbation(self, batchnorm: str) -> "Forward":
        """Return a `Forward` for making perturbations: BatchNorm in that mode, no weight gradients."""
        return replace(self, batchnorm=batchnorm, weight_gradients=False)

    def in_eval(self) -> "Forward":
        """Return the same `Forward` in eval mode."""
        return replace(self, batchnorm="eval")

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of the module."""
        return self.model.parameters()

    def as_module(self) -> AbstractContextManager[nn.Module]:
        """Return a context in which the module itself has BatchNorm in this mode; it runs eagerly.

        For code that calls parts of the module or needs an `nn.Module`.
        """
        if self.batchnorm == "both":
            return nullcontext(self.model)
        return _evaluating(self.model) if self.batchnorm == "eval" else _untracked(self.model)

    def copy_gradients(self) -> None:
        """Copy weight gradients out of the memory that the next compiled pass overwrites.

        Call it between two backward passes of one step. It has no effect on eager code.
        """
        if self.compiled:
            for weights in self.model.parameters():
                weights.grad = None if weights.grad is None else weights.grad.clone()

    def as_one(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Call `function(module, *inputs)`, as one graph with the module in it if compiled.

        For a function that computes gradients and whose result is differentiated again: compiled code can be
        differentiated only once, so the first differentiation must be inside the graph. If the module cannot be
        compiled as one graph, the function runs eagerly, and a line on standard error says why.
        """
        with self.as_module() as model:
            if self.compiled and self._execution:
                return self._execution.as_one(function, model, *inputs)
            return function(model, *inputs)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Set the module to eval mode inside the context, and restore the mode of each submodule."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _untracked(model: nn.Module) -> Iterator[nn.Module]:
    """Disable tracking inside the context: BatchNorm uses batch statistics without updating the running ones."""
    tracking: list[Any] = [module for module in model.modules() if getattr(module, "track_running_stats", False)]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield model
    finally:
        for module in tracking:
            module.track_running_stats = True

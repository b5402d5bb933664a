"""A forward pass with everything that it depends on besides the weights: `Forward`."""

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
    """A model and the modes of its forward passes: a callable from images (B, C, H, W) to logits (B, classes).

    It takes the place of the module in attacks, methods and indicators. Modes hold during a pass and are undone after
    it, so that the module stays as it is for everybody else. Another mode is another object: `replace(forward, ...)`.

    Args:
        model: The module, in the precision that it was built in. Its hooks see every pass.
        batchnorm: `both` leaves the module in the mode that it is in: in train mode BatchNorm uses batch statistics and
            moves the running ones. `update` uses batch statistics and moves nothing. `eval` is eval mode.
        weight_gradients: Whether gradients of weights will be asked for. If not, compiled code computes none; its
            backward pass otherwise computes every gradient that could be asked for. Plain code computes only those
            that are, and is left alone.
        compiled: Run compiled code, which the module must have been built with (`execution.execute`). Worth the wait
            for passes that are many, in few batch sizes.

    Raises:
        ValueError: If there is no such mode, or the module was not built with compiled code.

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
        """The model if it is a `Forward`; else the module as it is.

        Raises:
            TypeError: If it is neither.
        """
        if isinstance(model, Forward):
            return model
        if isinstance(model, nn.Module):
            return Forward(model)
        raise TypeError(f"the model must be an nn.Module or a Forward, not {type(model).__name__}")

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of images (B, C, H, W), (B, classes)."""
        spared = self.compiled and not self.weight_gradients
        with self.as_module() as model, frozen_weights(model) if spared else nullcontext():
            return model(x, compiled=True, weight_gradients=self.weight_gradients) if self.compiled else model(x)

    def for_perturbation(self, batchnorm: str) -> "Forward":
        """The passes that make a perturbation: with BatchNorm in that mode, and no gradients of weights."""
        return replace(self, batchnorm=batchnorm, weight_gradients=False)

    def in_eval(self) -> "Forward":
        """The same in eval mode."""
        return replace(self, batchnorm="eval")

    def parameters(self) -> Iterator[nn.Parameter]:
        """The module's."""
        return self.model.parameters()

    def as_module(self) -> AbstractContextManager[nn.Module]:
        """The module itself, with BatchNorm in this mode inside the context; it runs plain.

        For code that calls parts of the module, or that was not written for a `Forward`.
        """
        if self.batchnorm == "both":
            return nullcontext(self.model)
        return _evaluating(self.model) if self.batchnorm == "eval" else _untracked(self.model)

    def copy_gradients(self) -> None:
        """Move the weights' gradients out of the memory to which the next compiled pass writes.

        To be called between two backward passes of one step. Without effect on plain code.
        """
        if self.compiled:
            for weights in self.model.parameters():
                weights.grad = None if weights.grad is None else weights.grad.clone()

    def as_one(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`function(module, *inputs)`; if compiled, all of it as one graph with the module in it.

        For a function that takes gradients, and whose result is differentiated in turn: compiled code can be
        differentiated only once, so the first time has to be inside of it. If one graph cannot hold the module, all of
        it runs plain, and a line on standard error says why.
        """
        with self.as_module() as model:
            if self.compiled and self._execution:
                return self._execution.as_one(function, model, *inputs)
            return function(model, *inputs)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode; the mode of each of its modules is restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _untracked(model: nn.Module) -> Iterator[nn.Module]:
    """Without tracking, BatchNorm uses batch statistics and leaves the running ones (and their count) alone."""
    tracking: list[Any] = [module for module in model.modules() if getattr(module, "track_running_stats", False)]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield model
    finally:
        for module in tracking:
            module.track_running_stats = True

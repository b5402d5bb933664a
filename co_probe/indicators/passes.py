"""Observation of the passes of an optimizer step by hooks: logits and input gradients of attack and update."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from co_probe.errors import UserError
from co_probe.models.foreign import logits_of


@dataclass(eq=False)
class Pass:
    """A forward pass with gradients enabled, and the gradients of its backward pass.

    Attributes:
        logits: (B, classes).
        asked: Whether its input required a gradient only because the observer requested it.
        differentiable: Whether its input required a gradient at all.
        gradient: Input gradient of the first loss that was differentiated, of the input's shape; None before that.
        logit_gradient: Gradient of the same loss with respect to the logits, (B, classes); None before that.
        input: The images, (B, C, H, W), if the observer holds inputs.
    """

    logits: Tensor
    asked: bool
    differentiable: bool
    gradient: Tensor | None = None
    logit_gradient: Tensor | None = None
    input: Tensor | None = None

    # The first gradient only: a regulariser of input gradients differentiates through the same tensors again.
    # A copy, because compiled code may reuse the memory for its next result.
    def take_gradient(self, gradient: Tensor) -> None:
        """Store the input gradient, if there is none yet."""
        if self.gradient is None:
            self.gradient = gradient.detach().clone()

    def take_logit_gradient(self, gradient: Tensor) -> None:
        """Store the gradient at the logits, if there is none yet."""
        if self.logit_gradient is None:
            self.logit_gradient = gradient.detach().clone()


Pair = tuple[Pass, Pass]


class PassObserver:
    """Records the passes of a model between two calls of `take`, without changes to the training code.

    Hooks replace the input of the model by a view; a hook on that view receives the input gradient of this pass alone.
    The first pass of a step whose input requires a gradient is an attack. After it, inputs that do not require a
    gradient are made to require one, so that the update pass has an input gradient too. Weights, weight gradients,
    BatchNorm statistics and random numbers are the same as without the observer, and a GPU is not synchronised.

    Args:
        model: The module that the training loop calls. Hooks do not run inside `torch.compile` or on replicas of a
            wrapper. None makes an observer without a model, as a copy of an observed model gets.

    Example:
        >>> observer = PassObserver(model)
        >>> loss = attack_and_train(model, x, y)
        >>> (attack, update), = observer.take()
        >>> pert_alignment(attack.gradient, update.gradient)
    """

    def __init__(self, model: nn.Module | None = None):
        self.model, self.on = model, True
        self.holds_inputs = False
        self._passes: list[Pass] = []
        self._entered: tuple[Tensor | None, bool] | None = None  # view of the input; whether it was asked for
        self._handles = (
            []
            if model is None
            else [
                model.register_forward_pre_hook(self._before, with_kwargs=True),
                model.register_forward_hook(self._after),
            ]
        )

    def __reduce__(self) -> tuple[type["PassObserver"], tuple[()]]:
        # Hooks are copied and pickled with a model; the copy (such as an average of weights) is not observed.
        return PassObserver, ()

    def take(self) -> list[Pair]:
        """Return and clear the (attack, update) pairs since the last call, one per backward pass of the weights.

        With gradient accumulation there are several. They can be separated only if the input of the update pass does
        not require a gradient by itself; otherwise the first and the last pass of the whole step are returned. Passes
        without a gradient are skipped.
        """
        return pairs(self.take_passes())

    def take_passes(self) -> list[Pass]:
        """Return and clear the stored passes since the last call."""
        passes, self._passes = self._passes, []
        return passes

    def remove(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch.compiler.is_compiling() or not self.on or module is not self.model or not torch.is_grad_enabled():
            return None
        self._entered = (None, False)
        named: Iterable[tuple[Any, Any]] = chain(enumerate(args), kwargs.items())
        where, x = next(((k, v) for k, v in named if isinstance(v, Tensor) and v.is_floating_point()), (None, None))
        if x is None or x.is_inference():
            return None
        asked = not x.requires_grad
        if asked and not any(part.differentiable for part in self._passes):
            return None  # no attack so far: the step needs no input gradient
        view = (x.detach().requires_grad_() if asked else x).view_as(x)
        self._entered = (view, asked)
        if isinstance(where, int):
            return (*args[:where], view, *args[where + 1 :]), kwargs
        return args, kwargs | {where: view}

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        entered, self._entered = (None, None) if torch.compiler.is_compiling() else (self._entered, None)
        if entered is None or module is not self.model:
            return
        try:
            logits = logits_of(output)
        except UserError:
            return
        if not logits.requires_grad or logits.ndim != 2:
            return
        view, asked = entered
        held = view.detach() if self.holds_inputs and view is not None else None
        made = Pass(logits.detach().clone(), asked, view is not None, input=held)
        if view is not None:
            view.register_hook(made.take_gradient)
        logits.register_hook(made.take_logit_gradient)
        self._forget_middle()
        self._passes.append(made)

    def _forget_middle(self) -> None:
        """Drop the newest pass if it is neither the first on its images nor an update."""
        if not self._passes:
            return
        *before, newest = self._passes
        first = not before or before[-1].asked
        if not newest.differentiable or not (first or newest.asked):
            self._passes.pop()


def pairs(passes: list[Pass]) -> list[Pair]:
    """Pair the passes of one optimizer step: (first, last) for each stretch that ends with an update.

    Passes without gradients and pairs of inputs of different shapes are skipped.
    """
    passes = [part for part in passes if part.gradient is not None and part.logit_gradient is not None]
    stretches: list[list[Pass]] = [[]]
    for part in passes:
        stretches[-1].append(part)
        if part.asked:
            stretches.append([])
    stretches = [stretch for stretch in stretches if stretch]
    if not all(len(stretch) > 1 for stretch in stretches):
        stretches = [passes]
    found = [(stretch[0], stretch[-1]) for stretch in stretches if len(stretch) > 1]
    return [pair for pair in found if _shape(pair[0]) == _shape(pair[1])]


def _shape(part: Pass) -> tuple[torch.Size | None, torch.Size]:
    return (None if part.gradient is None else part.gradient.shape), part.logits.shape

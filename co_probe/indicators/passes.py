"""The passes of an optimizer step, as hooks on the model see them: logits and input gradients, first and last."""

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
    """A forward pass for which gradients were recorded, and what its backward pass brought.

    Attributes:
        logits: (B, classes).
        asked: Whether its input required a gradient only because the observer asked for it.
        differentiable: Whether its input required a gradient at all.
        gradient: Input gradient of the loss that was differentiated first, of the input's shape; None before that.
        logit_gradient: Gradient of the same loss with respect to the logits, (B, classes); None before that.
    """

    logits: Tensor
    asked: bool
    differentiable: bool
    gradient: Tensor | None = None
    logit_gradient: Tensor | None = None

    # The first gradient only: a regulariser of input gradients is differentiated through the same tensors again.
    # A copy, because compiled code may write its next result to the same memory.
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
    """Sees the passes of a model between two calls of `take`, without a change to the code that makes them.

    The hooks sit on the outside of the model: a view takes the place of its input, and a hook on that view receives
    the input gradient of this pass alone. The first pass of a step whose input requires a gradient is an attack; from
    there on, an input that does not require one is made to, so that the update pass has an input gradient too. Weights,
    weight gradients, statistics and random numbers stay as they are without the observer, and nothing waits for a GPU.

    Args:
        model: What the training loop calls: inside of `torch.compile` hooks see nothing, and a wrapper's replicas are
            not the model. None makes an observer without a model, which is what a copy of the model gets.

    Example:
        >>> observer = PassObserver(model)
        >>> loss = attack_and_train(model, x, y)
        >>> (attack, update), = observer.take()
        >>> pert_alignment(attack.gradient, update.gradient)
    """

    def __init__(self, model: nn.Module | None = None):
        self.model, self.on = model, True
        self._passes: list[Pass] = []
        self._entered: tuple[Tensor | None, bool] | None = None  # the view of the input, and whether it was asked for
        self._handles = (
            []
            if model is None
            else [
                model.register_forward_pre_hook(self._before, with_kwargs=True),
                model.register_forward_hook(self._after),
            ]
        )

    def __reduce__(self) -> tuple[type["PassObserver"], tuple[()]]:
        # Hooks are copied and pickled with a model: the copy (an average of weights, say) is not observed.
        return PassObserver, ()

    def take(self) -> list[Pair]:
        """Return the (attack, update) pairs since the last call, one per backward pass of the weights, and forget them.

        With gradient accumulation there are several. They can be told apart only where the input of the update pass
        does not require a gradient by itself; elsewhere, the first and the last pass of the whole step are returned.
        A pass whose gradient did not arrive is in no pair.
        """
        return pairs(self.take_passes())

    def take_passes(self) -> list[Pass]:
        """Return what is stored of the passes since the last call, and forget them."""
        passes, self._passes = self._passes, []
        return passes

    def remove(self) -> None:
        """Take the hooks off the model."""
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
            return None  # nothing was attacked so far: the step of a loop that needs no input gradient
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
        made = Pass(logits.detach().clone(), asked, view is not None)
        if view is not None:
            view.register_hook(made.take_gradient)
        logits.register_hook(made.take_logit_gradient)
        self._forget_middle()
        self._passes.append(made)

    def _forget_middle(self) -> None:
        """Drop the newest pass if it is neither the first of its images nor, by its input, an update."""
        if not self._passes:
            return
        *before, newest = self._passes
        first = not before or before[-1].asked
        if not newest.differentiable or not (first or newest.asked):
            self._passes.pop()


def pairs(passes: list[Pass]) -> list[Pair]:
    """Pair the passes of one optimizer step: (first, last) for each stretch that ends with an update.

    Passes whose gradients did not arrive are left out, and so are pairs over inputs of different shapes.
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

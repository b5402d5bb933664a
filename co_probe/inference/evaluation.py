"""What a perturbation does to a model, image by image."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.attacks.base import Rng, clip
from co_probe.data.dataset import at_least_float32

Generator = Callable[..., Tensor]  # (model, x, y, rng=None[, state=None]) -> δ; an Attack, or a method's `perturb`


@dataclass(frozen=True)
class Outcome:
    """Cross-entropy in nats, float32 or float64 (n,), and whether the class was right, bool (n,)."""

    loss: Tensor
    correct: Tensor

    @property
    def accuracy(self) -> float:
        """The share of images classified rightly, in [0, 1]."""
        return self.correct.float().mean().item()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode; every module's own mode is restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def batch_size(x: Tensor) -> int:
    """Images of the size of `x` (n, C, H, W) a batch for evaluation: what fits a CPU's caches, or fills a GPU."""
    small = 500 if x.device.type == "cuda" else 125  # up to 64×64; of larger ones as many pixels
    return max(1, min(small, small * 64**2 // (x.shape[-2] * x.shape[-1])))


def perturb(
    model: nn.Module,
    generator: Generator,
    x: Tensor,
    y: Tensor,
    rng: Rng = None,
    state: Tensor | None = None,
) -> Tensor:
    """δ of `generator` on any number of images, made in eval mode, batch by batch.

    `x`: (n, C, H, W) in [0, 1]; `y`: (n,); `state`: what a method keeps for each of these images, or None.
    """
    deltas, start = [], 0
    with evaluating(model):
        for xs, ys in zip(x.split(batch_size(x)), y.split(batch_size(x)), strict=True):
            kept = {} if state is None else {"state": state[start : start + len(xs)]}
            deltas.append(generator(model, xs, ys, rng=rng, **kept))
            start += len(xs)
    return torch.cat(deltas)


@torch.no_grad()
def outcome(model: nn.Module, x: Tensor, y: Tensor, delta: Tensor | None = None) -> Outcome:
    """Loss and correctness of `model`, in eval mode, at x + δ, clipped to its bounds (at x if no δ is given)."""
    if delta is not None:
        x = clip(x + delta, model)
    losses, correct = [], []
    with evaluating(model):
        for xs, ys in zip(x.split(batch_size(x)), y.split(batch_size(x)), strict=True):
            logits = at_least_float32(model(xs))
            losses.append(F.cross_entropy(logits, ys, reduction="none"))
            correct.append(logits.argmax(1) == ys)
    return Outcome(torch.cat(losses), torch.cat(correct))

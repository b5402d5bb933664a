"""The adversary of the theory of robust memorisation: it takes the meaningful feature off, and nothing else."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from co_probe.attacks.base import Attack, Rng
from co_probe.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Shrink(Attack):
    """δ = −ε·y·w* on the patch that carries the signal, 0 elsewhere: an L2 perturbation of length ε that asks no model.

    For images (B, d, P, 1) of P patches of which one is α·y·w*, of y = −1 (class 0) or +1 (class 1). The model's buffer
    `signal` says what w* is, (d,); the patch is the one that is longest along it.
    Raises UserError if the model has none.
    Source: arXiv 2306.01271, what its theory lets the adversary do to the meaningful feature.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None) -> Tensor:
        signal = signal_of(model)
        along = torch.einsum("bdpq,d->bpq", x, signal).flatten(1)
        patch = torch.zeros_like(along).scatter(1, along.abs().argmax(1, keepdim=True), 1).view(len(x), 1, *x.shape[2:])
        sign = (2 * y - 1).to(x).view(-1, 1, 1, 1)
        return -self.epsilon * sign * patch * signal.view(1, -1, 1, 1)


def signal_of(model: nn.Module) -> Tensor:
    """w*, as `co_probe.runs.build.new_model` gave it to the model. Raises UserError if the data set has none."""
    signal = getattr(model, "signal", None)
    if not isinstance(signal, Tensor):
        raise UserError(
            "shrink takes the signal off the images, which only the data set patches has: use another attack"
        )
    return signal

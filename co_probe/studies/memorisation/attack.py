"""The adversary of the theory of robust memorisation: it takes the meaningful feature off, and nothing else."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from co_probe.attacks.base import Attack, Bounds, Model, Rng
from co_probe.errors import UserError
from co_probe.studies.memorisation.signal import find_signal


@dataclass(frozen=True, kw_only=True)
class Shrink(Attack):
    """δ = −ε·y·w* on the patch that carries the signal, 0 elsewhere: an L2 perturbation of length ε that asks no model.

    For images (B, d, P, 1) of P patches of which one is α·y·w*, of y = −1 (class 0) or +1 (class 1); at least two at a
    time, from which `find_signal` reads w*.

    Raises:
        UserError: If the images have no such signal.

    Reference:
        arXiv 2306.01271, what its theory lets the adversary do to the meaningful feature.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    bounds: Bounds = (-torch.inf, torch.inf)

    @override
    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Tensor | None = None) -> Tensor:
        found = find_signal(x, y)
        if found is None:
            raise UserError(
                "shrink takes the signal off the images, which only the data set patches has (give it two images or "
                "more): use another attack"
            )
        signal, place = found
        patch = torch.zeros_like(x[:, 0]).flatten(1).scatter(1, place[:, None], 1).view(len(x), 1, *x.shape[2:])
        sign = (2 * y - 1).to(x).view(-1, 1, 1, 1)
        return -self.epsilon * sign * patch * signal.view(1, -1, 1, 1)

"""The adversary of the theory of robust memorisation, which reduces the signal of each image."""

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
    """δ = −ε·y·w* on the signal patch and 0 elsewhere: an L2 perturbation of length ε that does not use the model.

    For batches of at least two images (B, d, P, 1) with P patches, one of which is α·y·w*, where y = −1 for class 0
    and +1 for class 1. `find_signal` estimates w* from the batch.

    Raises:
        UserError: If the images have no such signal.

    Reference:
        arXiv 2306.01271, the perturbation of the meaningful feature in its theory.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    bounds: Bounds = (-torch.inf, torch.inf)

    @override
    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Tensor | None = None) -> Tensor:
        found = find_signal(x, y)
        if found is None:
            raise UserError(
                "the attack shrink needs images of the data set patches, at least two of them: use another attack "
                "for these images"
            )
        signal, place = found
        patch = torch.zeros_like(x[:, 0]).flatten(1).scatter(1, place[:, None], 1).view(len(x), 1, *x.shape[2:])
        sign = (2 * y - 1).to(x).view(-1, 1, 1, 1)
        return -self.epsilon * sign * patch * signal.view(1, -1, 1, 1)

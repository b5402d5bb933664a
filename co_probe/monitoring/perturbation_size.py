"""Size of the perturbations in a training loop, from which a wrong ε shows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from co_probe.attacks.base import lengths
from co_probe.indicators.passes import Pass, pairs
from co_probe.indicators.steps import labels_of


class PerturbationSize:
    """Collects how far images move between the attack and the update of optimizer steps.

    A random start may lie anywhere in the ε-ball, so images move by up to 2ε.

    Args:
        norm: `linf` or `l2`.
        std: Standard deviations per channel of a normalisation before the model; None without one.
    """

    def __init__(self, norm: str, std: Sequence[float] | None):
        self.norm, self.std = norm, std
        self._sizes: list[Tensor] = []

    @torch.no_grad()
    def add(self, passes: list[Pass]) -> None:
        """Add a step by its passes, which hold their inputs."""
        for attack, update in pairs(passes):
            if attack.input is None or update.input is None:
                continue
            change = (update.input - attack.input).float()
            if self.std is not None:
                change = change * torch.tensor(self.std, device=change.device).view(-1, 1, 1)
            first, second = labels_of(attack), labels_of(update)
            # Passes on different images, for example with unrecognised accumulation, say nothing.
            same = first is not None and second is not None and (first == second).float().mean() > 0.5
            size = (lengths(change) if self.norm == "l2" else change.abs()).amax()
            self._sizes.append(torch.where(torch.as_tensor(same, device=size.device), size, torch.zeros_like(size)))

    def largest(self) -> float:
        """Return the greatest size of any image so far, in pixel units; 0 without data."""
        return float(torch.stack(self._sizes).max()) if self._sizes else 0.0

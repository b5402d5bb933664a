"""Standard (clean) training."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng
from co_probe.attacks.base import Model
from co_probe.methods.base import Method


@dataclass(eq=False, kw_only=True)
class Standard(Method):
    """Train on x itself: δ = 0.

    Accuracy under its training attack is clean accuracy. ε is used by the attacks of the run, not in training.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        return torch.zeros_like(x)

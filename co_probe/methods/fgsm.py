"""FGSM adversarial training, which overfits catastrophically."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from co_probe import attacks
from co_probe.methods.base import Method


@dataclass(eq=False, kw_only=True)
class FGSM(Method):
    """Train on x + ε · sign ∇ₓL(θ; x, y), without random start.

    Reference:
        Goodfellow et al. (2015), section 6; the FGSM rows of arXiv 2010.08034.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")

    @override
    def attack_at(self, epsilon: float) -> attacks.FGSM:
        return attacks.FGSM(epsilon=epsilon, norm=self.norm, bounds=self.bounds)

"""PGD adversarial training."""

from dataclasses import dataclass
from typing import ClassVar

from co_probe import attacks
from co_probe.methods.base import Method


@dataclass(eq=False, kw_only=True)
class PGD(Method):
    """Train on PGD-`steps` perturbations: uniform random start, steps of ε/4 or of `step_size` (pixel units).

    Source: Madry et al. (2018), section 2.1; the PGD-10 rows of arXiv 2010.08034.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self):
        super().__post_init__()
        _ = self.attack  # raises for a setting out of range

    @property
    def attack(self) -> attacks.PGD:
        return attacks.PGD(
            epsilon=self.epsilon, steps=self.steps, step_size=self.step_size, norm=self.norm, bounds=self.bounds
        )

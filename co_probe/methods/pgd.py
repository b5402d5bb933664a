"""PGD adversarial training."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from co_probe import attacks
from co_probe.methods.base import Method


@dataclass(eq=False, kw_only=True)
class PGD(Method):
    """Train on the perturbations of PGD with a random start.

    Args:
        steps: Number of steps.
        step_size: In pixel units; ε/4 if None.

    Reference:
        Madry et al. (2018), section 2.1; the PGD-10 rows of arXiv 2010.08034.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.attack_at(1.0)  # raises for a setting out of range

    @override
    def attack_at(self, epsilon: float) -> attacks.PGD:
        return attacks.PGD(
            epsilon=epsilon, steps=self.steps, step_size=self.step_size, norm=self.norm, bounds=self.bounds
        )

"""Training against what the theory of robust memorisation lets the adversary do."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from co_probe import attacks
from co_probe.methods.base import Method, Task
from co_probe.studies.memorisation.attack import signal_of


@dataclass(eq=False)
class Shrink(Method):
    """Train on images whose signal has lost ε: adversarial gradient descent of arXiv 2306.01271, on its own data.

    For data with a known signal (`patches`) in L2 balls; with all images in one batch, as there.
    Raises UserError at its setup if the data have none.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)

    @property
    def attack(self) -> attacks.Shrink:
        return attacks.Shrink(epsilon=self.epsilon)

    def setup(self, model: nn.Module, task: Task) -> None:
        signal_of(model)

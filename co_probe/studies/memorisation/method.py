"""Training against what the theory of robust memorisation lets the adversary do."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from co_probe.methods.base import Method
from co_probe.studies.memorisation import attack


@dataclass(eq=False, kw_only=True)
class Shrink(Method):
    """Train on images whose signal has lost ε: adversarial gradient descent of arXiv 2306.01271, on its own data.

    For the data set `patches` in L2 balls; with all images in one batch, as there. Its first step raises UserError on
    other data.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)

    @override
    def attack_at(self, epsilon: float) -> attack.Shrink:
        return attack.Shrink(epsilon=epsilon)

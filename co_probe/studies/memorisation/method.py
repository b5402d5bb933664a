"""Training method of the theory of robust memorisation."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from co_probe.methods.base import Method
from co_probe.studies.memorisation import attack


@dataclass(eq=False, kw_only=True)
class Shrink(Method):
    """Train on images whose signal is reduced by ε: the adversarial gradient descent of arXiv 2306.01271.

    For the data set `patches` with the L2 norm. The paper puts all images into one batch. On other data the first step
    raises UserError.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)

    @override
    def attack_at(self, epsilon: float) -> attack.Shrink:
        return attack.Shrink(epsilon=epsilon)

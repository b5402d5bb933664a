"""Base class of GradAlign, ELLE and AAER: a single-step method with an additional penalty."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Attack, Rng
from co_probe.attacks.base import Model
from co_probe.methods.base import Method


@dataclass(eq=False, kw_only=True)
class Penalised(Method):
    """A method with the perturbations of another one, its base; subclasses add a penalty in `step`.

    Args:
        base: Name of the base, one of `BASES`.

    Attributes:
        BASES: Methods that may be the base, by name.

    Raises:
        ValueError: If `base` is none of them.
    """

    BASES: ClassVar[Mapping[str, type[Method]]]
    base: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base not in self.BASES:
            raise ValueError(f"base must be one of {', '.join(self.BASES)}, not {self.base!r}")
        self._base = self.BASES[self.base](bounds=self.bounds)

    @override
    def attack_at(self, epsilon: float) -> Attack | None:
        return self._base.attack_at(epsilon)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        return self._base.perturb(model, x, y, epsilon=epsilon, rng=rng)

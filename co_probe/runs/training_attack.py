"""Training attack of a run, by name or as an object."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from co_probe.attacks import Perturbation
from co_probe.attacks.base import Model
from co_probe.attacks.named import named_attack
from co_probe.config.labels import attack_name
from co_probe.errors import UserError
from co_probe.inference.forward import Forward
from co_probe.methods import METHODS

AttackLike = str | Perturbation | Callable[..., Tensor]
TOLERANCE = 1e-4  # rounding tolerance of ε-ball and bounds for the δ of user code


@dataclass(frozen=True)
class TrainingAttack:
    """The training attack of a run.

    Attributes:
        name: Name in tables and figures.
        perturb: Makes δ: `perturb(model, x, y, rng=None)`.
    """

    name: str
    perturb: Callable[..., Tensor]


def training_attack(
    given: AttackLike, *, epsilon: float, norm: str = "linf", bounds: tuple[float, float] = (0.0, 1.0)
) -> TrainingAttack:
    """Make the training attack that a user specifies.

    Args:
        given: The name of a method (`fgsm-rs`, `n-fgsm`) or of an attack (`pgd7`), an attack object, or a function
            `(model, x, y) -> δ`.
        epsilon: Norm bound, in pixel units; an attack object has its own.
        norm: `linf` or `l2`.
        bounds: Least and greatest pixel value.

    Raises:
        UserError: The method or attack is unknown, or does not support the norm.
    """
    if isinstance(given, str):
        if given in METHODS:
            method = METHODS.make(given, norm=norm, bounds=bounds)
            return TrainingAttack(given, method.generator_at(epsilon))
        return TrainingAttack(given, named_attack(given, epsilon, norm, bounds))
    if isinstance(given, Perturbation):
        return TrainingAttack(attack_name(given), given)
    if not callable(given):
        raise UserError(f"attack must be a name, an attack or a function (model, x, y) -> δ, not {given!r}")
    name = getattr(given, "__name__", type(given).__name__)
    return TrainingAttack(name, _Checked(given, name, epsilon, norm, bounds))


@dataclass(frozen=True)
class _Checked:
    """A user's function, whose δ is checked against shape, ε and bounds."""

    function: Callable[..., Any]
    name: str
    epsilon: float
    norm: str
    bounds: tuple[float, float]

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        with Forward.of(model).as_module() as module, torch.enable_grad():
            delta = self.function(module, x, y)
        if not isinstance(delta, Tensor) or delta.shape != x.shape:
            seen = tuple(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
            raise UserError(
                f"attack {self.name} returned {seen} for images of shape {tuple(x.shape)}: it must return δ"
            )
        delta = delta.detach()
        if self._length(delta) > self.epsilon * (1 + TOLERANCE) + TOLERANCE:
            if self._length(delta - x) <= self.epsilon * (1 + TOLERANCE) + TOLERANCE:
                raise UserError(f"attack {self.name} returned perturbed images: it must return δ, return x_adv - x")
            raise UserError(
                f"attack {self.name} returned a δ of length {self._length(delta):.4g}, and epsilon is "
                f"{self.epsilon:.4g}: epsilon is in units of the images, not of normalised ones"
            )
        return (x + delta).clamp(*self.bounds) - x

    def _length(self, delta: Tensor) -> float:
        flat = delta.flatten(1)
        return (flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)).max().item()

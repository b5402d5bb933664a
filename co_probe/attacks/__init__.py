"""Attacks: (model, x, y) -> δ, with x + δ within the bounds of images."""

from co_probe.attacks.autoattack import AutoAttack
from co_probe.attacks.base import (
    Attack,
    Bounds,
    Clean,
    Model,
    Perturbation,
    Rng,
    input_gradient,
    project,
    random_start,
)
from co_probe.attacks.fgsm import FGSM
from co_probe.attacks.margin import CW
from co_probe.attacks.named import named_attack
from co_probe.attacks.noise import Gaussian, Noise
from co_probe.attacks.pgd import PGD
from co_probe.attacks.square import Square
from co_probe.config.attacks import ATTACKS
from co_probe.config.labels import attack_name

__all__ = [
    "ATTACKS",
    "CW",
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "Bounds",
    "Clean",
    "Gaussian",
    "Model",
    "Noise",
    "Perturbation",
    "Rng",
    "Square",
    "attack_name",
    "input_gradient",
    "named_attack",
    "project",
    "random_start",
]

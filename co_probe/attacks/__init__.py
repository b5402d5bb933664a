"""Attacks: (model, x, y) -> δ, with x + δ in [0, 1]."""

from co_probe.attacks.autoattack import AutoAttack
from co_probe.attacks.base import Attack, Clean, Disturbance, input_gradient, project
from co_probe.attacks.fgsm import FGSM
from co_probe.attacks.margin import CW
from co_probe.attacks.noise import Gaussian, Noise
from co_probe.attacks.pgd import PGD

__all__ = [
    "CW",
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "Clean",
    "Disturbance",
    "Gaussian",
    "Noise",
    "input_gradient",
    "project",
]

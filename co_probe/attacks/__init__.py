"""Attacks: (model, x, y) -> δ, with x + δ within the bounds of images."""

from co_probe.attacks.autoattack import AutoAttack
from co_probe.attacks.base import Attack, Clean, Disturbance, Rng, bounds, clip, input_gradient, project
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
    "Rng",
    "bounds",
    "clip",
    "input_gradient",
    "project",
]

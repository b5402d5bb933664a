"""Attacks: (model, x, y) -> δ, with x + δ in [0, 1]."""

from co_probe.attacks.base import Attack, input_gradient, project
from co_probe.attacks.fgsm import FGSM
from co_probe.attacks.noise import Noise
from co_probe.attacks.pgd import PGD

__all__ = ["FGSM", "PGD", "Attack", "Noise", "input_gradient", "project"]

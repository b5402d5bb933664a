"""Attacks as the command line and tables name them."""

import re

from co_probe.attacks.base import Attack
from co_probe.attacks.fgsm import FGSM
from co_probe.attacks.pgd import PGD
from co_probe.errors import UserError


def named_attack(name: str, epsilon: float) -> Attack:
    """`fgsm`, `pgdN` (N steps of ε/4) or `pgdNxR` (with R restarts), at `epsilon`. Raises UserError for others."""
    if name == "fgsm":
        return FGSM(epsilon=epsilon)
    match = re.fullmatch(r"pgd([1-9]\d*)(?:x([1-9]\d*))?", name)
    if not match:
        raise UserError(
            f"unknown attack '{name}': there are fgsm, pgd10, pgd20, and so on, and pgd50x10 for 10 restarts"
        )
    return PGD(epsilon=epsilon, steps=int(match[1]), restarts=int(match[2] or 1))

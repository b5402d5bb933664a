"""Attacks as the command line and tables name them."""

import re

from co_probe.attacks.autoattack import AutoAttack
from co_probe.attacks.base import Clean, Disturbance
from co_probe.attacks.fgsm import FGSM
from co_probe.attacks.margin import CW
from co_probe.attacks.noise import Gaussian
from co_probe.attacks.pgd import PGD
from co_probe.config.labels import NORMS
from co_probe.errors import UserError
from co_probe.studies.memorisation.attack import Shrink

KNOWN = "clean, gaussian (σ = 0.1), fgsm, pgd10, pgd20 and so on, pgd50x10 for 10 restarts, cw (30 steps), aa, shrink"


def named_attack(name: str, epsilon: float, norm: str = "linf") -> Disturbance:
    """What `name` stands for, at `epsilon` (pixel units) in the ball of `norm`. Raises UserError for any other name.

    `clean`: nothing; `gaussian`: noise of σ = 0.1; `fgsm`; `pgdN`: N steps of ε/4, `pgdNxR` with R restarts; `cw`: PGD
    on the margin, 30 steps of ε/4 (`cwN`, `cwNxR` as with PGD); `aa`: AutoAttack (only in L∞); `shrink`:
    what takes ε off the signal of the data set patches (only in L2).
    """
    match name:
        case "clean":
            return Clean()
        case "gaussian":
            return Gaussian()
        case "fgsm":
            return FGSM(epsilon=epsilon, norm=norm)
        case "cw":
            return CW(epsilon=epsilon, norm=norm)
        case "aa" if norm == "linf":
            return AutoAttack(epsilon=epsilon)
        case "shrink" if norm == "l2":
            return Shrink(epsilon=epsilon)
        case "aa" | "shrink":
            raise UserError(f"{name} has no {NORMS[norm]} ball, which is what ε means here: choose another attack")
    parts = re.fullmatch(r"(pgd|cw)([1-9]\d*)(?:x([1-9]\d*))?", name)
    if not parts:
        raise UserError(f"unknown attack '{name}': there are {KNOWN}")
    family = PGD if parts[1] == "pgd" else CW
    return family(epsilon=epsilon, steps=int(parts[2]), restarts=int(parts[3] or 1), norm=norm)

"""Attacks as the command line and tables name them."""

import re
from dataclasses import fields

from co_probe.attacks.base import Disturbance
from co_probe.attacks.margin import CW
from co_probe.attacks.pgd import PGD
from co_probe.config.attacks import ATTACKS
from co_probe.config.labels import NORMS
from co_probe.errors import UserError


def named_attack(name: str, epsilon: float, norm: str = "linf") -> Disturbance:
    """The attack that `name` stands for.

    Args:
        name: An entry of `co_probe.config.attacks.ATTACKS`: `clean`, `gaussian` (σ = 0.1), `fgsm`, `cw` (PGD on the
            margin, 30 steps of ε/4), `aa` (AutoAttack, only in L∞), or one that a study registers; or `pgdN`: N steps
            of ε/4, `pgdNxR` with R restarts, `cwN` and `cwNxR` likewise.
        epsilon: The bound, in pixel units.
        norm: The norm that it bounds, `linf` or `l2`.

    Raises:
        UserError: For any other name, or an attack that has no ball of this norm.
    """
    if name in ATTACKS and not name.endswith(("N", "R")):
        kind = ATTACKS.load(name)
        known = {field.name for field in fields(kind)}
        if "epsilon" in known and "norm" not in known and norm not in kind.norms:
            raise UserError(f"{name} has no {NORMS[norm]} ball, which is what ε means here: choose another attack")
        given = {"epsilon": epsilon, "norm": norm}
        return kind(**{key: value for key, value in given.items() if key in known})
    parts = re.fullmatch(r"(pgd|cw)([1-9]\d*)(?:x([1-9]\d*))?", name)
    if not parts:
        raise UserError(f"unknown attack '{name}': there are {', '.join(ATTACKS)} (N steps, R restarts: pgd50x10)")
    family = PGD if parts[1] == "pgd" else CW
    return family(epsilon=epsilon, steps=int(parts[2]), restarts=int(parts[3] or 1), norm=norm)

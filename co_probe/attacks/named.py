"""Attacks by name, as used by the command line and tables."""

import re
from inspect import signature
from typing import Any, cast

from co_probe.attacks.base import Bounds, Perturbation
from co_probe.config.attacks import ATTACKS
from co_probe.config.labels import NORMS, AttackLike
from co_probe.errors import UserError, unknown

NUMBERED = re.compile(r"([a-z][a-z-]*)([1-9]\d*)(?:x([1-9]\d*))?")


def named_attack(name: AttackLike, epsilon: float, norm: str = "linf", bounds: Bounds = (0.0, 1.0)) -> Perturbation:
    """Make the attack that `name` stands for.

    Args:
        name: `clean` (no perturbation), `gaussian` (noise of σ = 0.1), `fgsm`, `pgdN` (N steps of ε/4), `pgdNxR` (with
            R restarts), `cw` (PGD on the margin, 30 steps of ε/4), `cwN`, `cwNxR`, `square` (1000 queries), `aa`
            (AutoAttack), any other entry of `co_probe.config.attacks.ATTACKS`, or `package.module:Name`. An attack
            object is returned as it is, with its own ε.
        epsilon: Norm bound, in pixel units.
        norm: `linf` or `l2`.
        bounds: Least and greatest pixel value.

    Raises:
        UserError: If there is no such attack, or it is not defined in the ball of `norm`.

    Example:
        >>> named_attack("pgd50x10", 8 / 255)
    """
    if not isinstance(name, str):
        return cast(Perturbation, name)
    entry, settings = _entry(name)
    make = ATTACKS.load(entry)
    known = set(signature(make).parameters)
    if "norm" not in known and norm not in getattr(make, "norms", NORMS):
        raise UserError(f"{name} is not defined for {NORMS[norm]} balls, which the run uses: choose another attack")
    given: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "bounds": bounds}
    return make(**{key: value for key, value in given.items() if key in known}, **settings)


def _entry(name: str) -> tuple[str, dict[str, int]]:
    """Return the registry entry for `name`, and the numbers of steps and restarts in it."""
    if parts := NUMBERED.fullmatch(name):
        entry = f"{parts[1]}N" if parts[3] is None else f"{parts[1]}NxR"
        if entry in ATTACKS:
            return entry, {"steps": int(parts[2])} | ({} if parts[3] is None else {"restarts": int(parts[3])})
    if name.endswith(("N", "NxR")) and name in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    return ATTACKS.check(name), {}

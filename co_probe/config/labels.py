"""What methods, attacks and ε are called in tables, figures and folder names."""

import re
from collections.abc import Mapping

NORMS = {"linf": "L∞", "l2": "L2"}  # the balls that perturbations keep to, by their names in settings
_LABELS: dict[str, dict[str, str]] = {"attack": {"method": "its own attack"}}


def set_label(kind: str, name: str, label: str) -> None:
    """Set what the entry `name` of the registry of this `kind` is called; `Registry.register` does."""
    _LABELS.setdefault(kind, {})[name] = label


def labels(kind: str) -> Mapping[str, str]:
    """{name: label} of all entries of a `kind` (`method`, `attack`, ...), in the order of registration."""
    return _LABELS.get(kind, {})


def attack_label(name: str) -> str:
    """`pgd10` as PGD-10, `pgd50x10` as PGD-50×10, `cw` as C&W, `fgsm` as FGSM."""
    if name in labels("attack"):
        return labels("attack")[name]
    parts = re.fullmatch(r"(pgd|cw)(\d+)(?:x(\d+))?", name)
    if not parts:
        return name.upper()
    family = "PGD" if parts[1] == "pgd" else "C&W"
    return f"{family}-{parts[2]}×{parts[3]}" if parts[3] else f"{family}-{parts[2]}"


def bound_label(epsilon: float, norm: str) -> str:
    """`ε = 0.13`, and for balls of another norm than L∞ which: `L2 ε = 9.4`."""
    return f"{'' if norm == 'linf' else NORMS[norm] + ' '}ε = {epsilon:.3g}"


def epsilon_label(epsilon: float) -> str:
    """ε as a person would type it: `8/255` where it is a whole number of grey levels (up to 1), else `0.031`."""
    levels = round(epsilon * 255)
    return f"{levels}/255" if levels and epsilon <= 1 and abs(epsilon * 255 - levels) < 1e-6 else f"{epsilon:.6g}"

"""Labels of methods, attacks and ε in tables, figures and folder names."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from co_probe.config.discovery import discover

AttackLike = str | Callable[..., Any]  # an attack's name, or an attack

NORMS = {"linf": "L∞", "l2": "L2"}  # name in settings -> label
_LABELS: dict[str, dict[str, str]] = {"attack": {"method": "its own attack"}}


def set_label(kind: str, name: str, label: str) -> None:
    """Set the label of a registry entry; called by `Registry.register`."""
    _LABELS.setdefault(kind, {})[name] = label


def labels(kind: str) -> Mapping[str, str]:
    """Return {name: label} of all entries of a `kind` (`method`, `attack`, ...), in order of registration."""
    discover()
    return _LABELS.get(kind, {})


def method_label(method: str) -> str:
    """`fgsm` as FGSM, `fgsm, guard pgd2` as FGSM, guard pgd2; a title that is no method's stays as it is."""
    name, comma, guard = method.partition(", guard ")
    return labels("method").get(name, name) + comma + guard


def attack_name(attack: Any) -> str:
    """Return the name of an attack that is given as a name or an object.

    Args:
        attack: A name, or an attack: a dataclass or any other callable.

    Returns:
        The name; for a dataclass, its class with settings other than defaults, such as `PGD(epsilon=8/255, steps=7)`,
        which is the same in every process.
    """
    if isinstance(attack, str):
        return attack
    if not is_dataclass(attack) or isinstance(attack, type):
        return getattr(attack, "__qualname__", type(attack).__qualname__) + "()"
    settings = []
    for field in fields(attack):
        value = getattr(attack, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value != default:
            settings.append(f"{field.name}={_text(value)}")
    return f"{type(attack).__qualname__}({', '.join(settings)})"


def _text(value: Any) -> str:
    """Format a setting exactly, and as a fraction for a whole number of grey levels."""
    if isinstance(value, float) and len(repr(value)) > 8 and value * 255 == round(value * 255):
        return f"{round(value * 255)}/255"
    return getattr(value, "__qualname__", repr(value))


def chosen_label(splits: Iterable[str]) -> str:
    """Describe the split of best epochs: `best epoch chosen on validation images`."""
    found = sorted(set(splits), reverse=True)
    return f"best epoch chosen on {' or '.join(found)} images"


def attack_label(name: str) -> str:
    """Format an attack's name: `pgd10` as PGD-10, `pgd50x10` as PGD-50×10, `cw` as C&W, `fgsm` as FGSM."""
    if name in labels("attack"):
        return labels("attack")[name]
    if "(" in name:  # the name of an object by `attack_name`
        return name
    parts = re.fullmatch(r"(pgd|cw)(\d+)(?:x(\d+))?", name)
    if not parts:
        return name.upper()
    family = "PGD" if parts[1] == "pgd" else "C&W"
    return f"{family}-{parts[2]}×{parts[3]}" if parts[3] else f"{family}-{parts[2]}"


def bound_label(epsilon: float, norm: str) -> str:
    """Format a norm bound: `ε = 0.13`, `ε = 8/255`, and with its norm if it is not L∞: `L2 ε = 9.4`."""
    return f"{'' if norm == 'linf' else NORMS[norm] + ' '}ε = {epsilon_label(epsilon)}"


def epsilon_label(epsilon: float) -> str:
    """Format ε: `0.2` for two decimals, `8/255` for a whole number of grey levels (below 1), else `0.0312`."""
    levels = grey_levels(epsilon)
    return f"{levels}/255" if levels and epsilon != round(epsilon, 2) else f"{epsilon:.6g}"


def grey_levels(epsilon: float) -> int | None:
    """Return ε in units of 1/255 if it is a whole number of them, from 1 to 255; else None."""
    levels = round(epsilon * 255)
    return levels if 0 < levels <= 255 and abs(epsilon * 255 - levels) < 1e-6 else None

"""Presets: settings in TOML files, of co-probe or of users.

A preset may extend another: with `extends = "cifar10"` the file holds only what differs.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from co_probe.config import Config, merge
from co_probe.config.discovery import discover
from co_probe.config.kinds import fits
from co_probe.config.sections import SECTIONS
from co_probe.config.settings import with_current_names
from co_probe.config.toml import InvalidTOML, parse_toml
from co_probe.errors import UserError, unknown

NEW_RUN: dict[str, Any] = {"probe": {"validation": "auto"}, "optimizer": {"name": "sgd"}}
"""Defaults of new runs where they differ from those of `Config`, which also apply to runs of earlier versions.

Settings of the optimizer in a preset are those of SGD unless it names another one.
"""

_PACKAGES: dict[str, str] = {}  # preset: the package that holds its TOML file, for those of studies


def register(name: str, package: str) -> None:
    """Add a preset: the file `name`.toml in `package`.

    Raises:
        ValueError: If a preset of this name exists in co-probe or in another package.
    """
    if _PACKAGES.get(name, package) != package or name in _own():
        raise ValueError(f"preset {name} is registered already")
    _PACKAGES[name] = package


def names() -> list[str]:
    """List the names of all presets, sorted."""
    discover()
    return sorted([*_own(), *_PACKAGES])


def _own() -> list[str]:
    return [path.name.removesuffix(".toml") for path in files(__name__).iterdir() if path.name.endswith(".toml")]


def summary(preset: str) -> str:
    """Return the purpose of a preset, from the comment in its first line."""
    return text(preset).partition("\n")[0].removeprefix("#").strip()


def text(preset: str) -> str:
    """Return the TOML of a preset, by name or path. Raises UserError if there is none."""
    if preset in names():
        return files(_PACKAGES.get(preset, __name__)).joinpath(f"{preset}.toml").read_text(encoding="utf-8")
    if preset.endswith(".toml"):
        try:
            return Path(preset).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"preset file {preset}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"preset file {preset} is not text in UTF-8") from error
    raise unknown("preset", preset, names())


def read(preset: str) -> dict[str, Any]:
    """Return the settings of a preset, merged over those of the preset that it extends.

    Args:
        preset: A name, or the path of a TOML file. Paths in `extends` are relative to the file.

    Raises:
        UserError: If there is no such preset, it is no valid TOML, or it extends itself.
    """
    chain: list[dict[str, Any]] = []
    seen: list[str] = []
    current: str | None = preset
    while current is not None:
        if current in seen:
            raise UserError(f"preset {preset} extends itself: {' extends '.join([*seen, current])}")
        seen.append(current)
        try:
            chain.append(parse_toml(text(current)))
        except InvalidTOML as error:
            raise UserError(f"preset {current} is {error}") from error
        base = chain[-1].pop("extends", None)
        if not isinstance(base, str | None):
            raise UserError(f"preset {current}: extends is the name of one preset, as text, not {base!r}")
        if base is not None and base not in names() and base.endswith(".toml"):
            base = str(Path(current).parent / base)
        current = base
    settings: dict[str, Any] = {}
    for part in reversed(chain):
        settings = merge(settings, with_current_names(part))
    return settings


def configure(preset: str, method: str, *overrides: dict[str, Any], defaults: Mapping[str, Any] = NEW_RUN) -> Config:
    """Make the settings of a run.

    A section of a study in `overrides` may change the preset (`Section.adapt`). The number of training images
    (`data.limit`) of the preset also holds for another data set. If `overrides` change the number of
    epochs but not the warm-up of ε, the warm-up is scaled. Code that a preset file names is imported only if the user
    allows it (`co_probe.config.plugins`).

    Args:
        preset: A name, or the path of a TOML file.
        method: Name of the training method, which selects its section of the preset.
        overrides: Settings that override the preset, in order.
        defaults: Settings that the preset overrides.

    Raises:
        UserError: For an unknown preset or setting, or a value out of range.
    """
    data = read(preset)
    methods = data.pop("methods", {})
    own = methods.get(method, {}) if isinstance(methods, dict) else methods
    if not isinstance(own, dict):
        raise UserError(f"preset {preset}: methods.{method} is a section of settings, not one value")
    data = merge(dict(defaults), merge(data, {"method": {"name": method, **own}, "preset": preset}))
    share, limit = _warmup_share(data), _limit(data)
    for name in SECTIONS:
        given = [extra[name] for extra in overrides if name in extra]
        if given:
            data = SECTIONS.load(name).adapt(data, _joined(given))
    for extra in overrides:
        data = merge(data, with_current_names(extra))
    if limit is not None and isinstance(data["data"], Mapping):
        data = {**data, "data": {"limit": limit, **data["data"]}}
    if share and not any("epsilon_warmup" in extra for extra in overrides) and fits(data["epochs"], int):
        data["epsilon_warmup"] = share * data["epochs"]
    return Config.from_dict(data)


def _warmup_share(data: dict[str, Any]) -> float:
    """Return the share of epochs in which a preset warms ε up; 0 for invalid values, which `Config` rejects."""
    warmup, epochs = data.get("epsilon_warmup", 0), data.get("epochs", 1)
    return warmup / epochs if fits(warmup, float) and fits(epochs, int) and epochs > 0 else 0.0


def _limit(data: dict[str, Any]) -> Any:
    """Return the number of training images in a preset, or None."""
    section = data.get("data")
    return section.get("limit") if isinstance(section, Mapping) else None


def _joined(given: list[Any]) -> dict[str, Any]:
    """Merge the values that a user gave for one section; a bare value sets none of its settings."""
    settings: dict[str, Any] = {}
    for part in given:
        settings |= part if isinstance(part, dict) else {}
    return settings

"""A grid of runs: methods, ε, seeds and other settings."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from co_probe.config import Config, parse_assignment, parse_number
from co_probe.config.labels import grey_levels
from co_probe.config.presets import configure
from co_probe.config.sections import Option, all_options
from co_probe.config.settings import nested
from co_probe.config.toml import parse_toml
from co_probe.errors import UserError, unknown
from co_probe.methods import METHODS


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid of runs: every combination of methods, ε, seeds and values of the settings that vary.

    Attributes:
        methods: Names of methods.
        epsilons: Norm bounds in pixel units, as numbers or texts like `8/255`. If empty, that of the preset.
        seeds: Seeds of the runs.
        preset: Name of a preset, or path of a TOML file.
        settings: Settings of all runs that override the preset, nested like it.
        vary: {setting, such as `model.width` or `inject.beta`: its values}.

    Raises:
        UserError: If a list is empty or has the same value twice.
    """

    methods: tuple[str, ...]
    epsilons: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    preset: str = "digits"
    settings: dict[str, Any] = field(default_factory=dict)
    vary: dict[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilons", tuple(map(parse_number, self.epsilons)))
        for name in ("methods", "epsilons", "seeds"):
            given = tuple(getattr(self, name))
            if len(set(given)) < len(given):
                raise UserError(f"the sweep has one of its {name} twice")
            object.__setattr__(self, name, given)
        amounts = {option.setting for option in axes().values()}
        vary = {key: [*map(parse_number, values)] if key in amounts else [*values] for key, values in self.vary.items()}
        object.__setattr__(self, "vary", vary)
        for key, values in vary.items():
            if not values or len({str(value) for value in values}) < len(values):
                raise UserError(f"the sweep needs values of {key}, each once")
        if not (self.methods and self.seeds):
            raise UserError("a sweep needs at least one method and one seed")

    @classmethod
    def from_toml(cls, path: Path, **changes: Any) -> "Grid":
        """Read a grid from a file.

        Args:
            path: A TOML file with the attributes of this class as keys; `settings` and `vary` are sections. A study
                may add keys for settings that it varies, such as `injects`.
            changes: Attributes that replace those of the file; for `vary`, setting by setting.

        Raises:
            UserError: If the file cannot be read, or its content is invalid.
        """
        try:
            data = parse_toml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, UserError) as error:
            raise UserError(f"sweep file {path}: {error}") from error
        known = [*(f.name for f in fields(cls)), *axes()]
        for key in data:
            if key not in known:
                raise unknown("key of a sweep file", key, known)
        for name in ("methods", "epsilons", "seeds", *axes()):
            if not isinstance(data.get(name, []), list):
                raise UserError(f"sweep file {path}: {name} must be a list")
        vary = data.get("vary", {})
        if not (isinstance(vary, dict) and all(isinstance(values, list) for values in vary.values())):
            raise UserError(f'sweep file {path}: vary is a table of lists, as: "model.width" = [8, 16]')
        if not isinstance(data.get("settings", {}), dict):
            raise UserError(f"sweep file {path}: settings is a section of settings, not one value")
        varied = {option.setting: data.pop(name) for name, option in axes().items() if name in data}
        data["vary"] = varied | vary | changes.pop("vary", {})
        data |= changes
        if "methods" not in data:
            raise UserError(f"sweep file {path}: methods are missing")
        return cls(**data)

    def cells(self, out: Path) -> dict[Path, Config]:
        """Return the runs of the grid, method by method.

        Args:
            out: The folder of all runs.

        Returns:
            {folder of a run: its settings}. With a varying model.width, folders are named like
            `fgsm-eps8of255-seed0-width16`.

        Raises:
            UserError: For an unknown method, preset or setting, or a value out of range.
        """
        cells: dict[Path, Config] = {}
        for method in map(METHODS.check, self.methods):
            for epsilon, seed, *values in product(self.epsilons or (None,), self.seeds, *self.vary.values()):
                given = {} if epsilon is None else {"epsilon": epsilon}
                varied = dict(zip(self.vary, values, strict=True))
                changes = [nested(key, value) for key, value in varied.items()]
                config = configure(self.preset, method, self.settings, given, {"seed": seed}, *changes)
                path = out / cell_name(config, varied)
                if path in cells:
                    raise UserError(f"two cells of the sweep would be named {path.name}")
                cells[path] = config
        return cells


def axes() -> dict[str, Option]:
    """Return the settings with a name of their own in sweeps, such as `injects`, by that name."""
    return {option.axis.name: option for option in all_options() if option.axis}


def cell_name(config: Config, varied: Mapping[str, Any]) -> str:
    """Return the folder name of a run of a sweep: method, ε, seed, and the settings that vary.

    Args:
        config: The settings of the run.
        varied: {setting that varies: its value in this run}.

    Example:
        >>> cell_name(config, {"model.width": 16})
        'fgsm-eps8of255-seed0-width16'
    """
    labels = {option.setting: option.axis.label for option in axes().values() if option.axis}
    amounts = {"eps": config.epsilon} | {labels[key]: value for key, value in varied.items() if key in labels}
    parts = [config.method.name]
    parts += [f"{name}{_amount(value)}" for name, value in amounts.items()]
    parts.append(f"seed{config.seed}")
    parts += [f"{key.rpartition('.')[2]}{value}" for key, value in varied.items() if key not in labels]
    return "-".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)


def _amount(value: float) -> str:
    levels = grey_levels(value)
    return f"{levels}of255" if levels else f"{value:.6g}"


def parse_variation(text: str) -> dict[str, list[Any]]:
    """Parse `model.width=4,8,16` as `{"model.width": [4, 8, 16]}`, with values as in `parse_assignment`.

    Raises:
        UserError: If the text has another form.
    """
    key, equals, raw = text.partition("=")
    if not (equals and key.strip() and raw.strip()):
        raise UserError(f"give a varying setting as key=value,value, for example model.width=8,16, not '{text}'")
    return {key.strip(): [parse_assignment(f"value={part.strip()}")["value"] for part in raw.split(",")]}


def split(text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Split a comma-separated list and convert its entries with `kind`. Raises UserError for an invalid entry."""
    parts: Iterable[str] = filter(None, map(str.strip, text.split(",")))
    try:
        return tuple(kind(part) for part in parts)
    except ValueError:
        raise UserError(f"'{text}' is not a list of whole numbers: give it as 0,1,2") from None

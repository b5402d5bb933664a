"""Many runs at once: a grid of methods, ε, β and seeds, in one folder."""

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from co_probe.config import Config, parse_assignment, parse_number
from co_probe.config.labels import epsilon_label
from co_probe.config.presets import configure
from co_probe.errors import CoProbeError, UserError, unknown
from co_probe.methods import METHODS
from co_probe.store import StoredRun


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to sweep over: every method with every ε, β and seed, and with every value of the settings that vary.

    `epsilons`: pixel units (numbers, or texts like `8/255`), the preset's one if there are none; `injects`: β of the
    carriers added to the images, likewise; `settings`: over the preset, nested like it; they hold for every cell.
    `vary`: {setting, as `model.width`: its values}.
    Raises UserError if there is nothing to sweep over, or for something twice.
    """

    methods: tuple[str, ...]
    epsilons: tuple[float, ...] = ()
    injects: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    preset: str = "digits"
    settings: dict[str, Any] = field(default_factory=dict)
    vary: dict[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "epsilons", tuple(map(parse_number, self.epsilons)))
        object.__setattr__(self, "injects", tuple(map(parse_number, self.injects)))
        for name in ("methods", "epsilons", "injects", "seeds"):
            values = tuple(getattr(self, name))
            if len(set(values)) < len(values):
                raise UserError(f"the sweep has one of its {name} twice")
            object.__setattr__(self, name, values)
        for key, options in self.vary.items():
            if not options or len({str(option) for option in options}) < len(options):
                raise UserError(f"the sweep needs values of {key}, each once")
        if not (self.methods and self.seeds):
            raise UserError("a sweep needs at least one method and one seed")

    @classmethod
    def from_toml(cls, path: Path, **changes: Any) -> "Grid":
        """Read a file with the fields of this class as keys (`settings` as a section); `changes` go over it."""
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"sweep file {path}: {error}") from error
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise unknown("key of a sweep file", key, known)
        data |= changes
        if "methods" not in data:
            raise UserError(f"sweep file {path}: methods are missing")
        for name in ("methods", "epsilons", "injects", "seeds"):
            if not isinstance(data.get(name, []), list | tuple):
                raise UserError(f"sweep file {path}: {name} must be a list")
        if not all(isinstance(values, list | tuple) for values in _table(data.get("vary", {})).values()):
            raise UserError(f'sweep file {path}: vary is a table of lists, as: "model.width" = [8, 16]')
        return cls(**data)

    def cells(self, out: Path) -> dict[Path, Config]:
        """{folder of a run: its settings}, method by method; folders are named like `fgsm-eps8of255-seed0`,
        with `injects` like `fgsm-eps8of255-beta4of255-seed0`.

        Raises UserError for an unknown method, preset or setting, or a value out of range.
        """
        cells: dict[Path, Config] = {}
        for method in map(METHODS.check, self.methods):
            grid = product(self.epsilons or (None,), self.injects or (None,), self.seeds, *self.vary.values())
            for epsilon, beta, seed, *values in grid:
                given = {} if epsilon is None else {"epsilon": epsilon}
                injected = {} if beta is None else {"inject": {"beta": beta}}
                varied = dict(zip(self.vary, values, strict=True))
                changes = [parse_assignment(f"{key}={json.dumps(value)}") for key, value in varied.items()]
                config = configure(self.preset, method, self.settings, given, injected, {"seed": seed}, *changes)
                path = out / cell_name(config, beta is not None, varied)
                if path in cells:
                    raise UserError(f"two cells of the sweep would be named {path.name}")
                cells[path] = config
        return cells


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"": value}


def cell_name(config: Config, beta: bool = False, varied: Mapping[str, Any] | None = None) -> str:
    """What tells a run of a sweep from the others, as a folder's name; `beta`: with its β.

    For example `fgsm-eps8of255-seed0-width16`, where model.width was `varied`.
    """
    bounds = {"eps": config.epsilon} | ({"beta": config.inject.beta} if beta else {})
    parts = [
        config.method.name,
        *(f"{name}{epsilon_label(value).replace('/', 'of')}" for name, value in bounds.items()),
    ]
    parts += [f"seed{config.seed}", *(f"{key.rpartition('.')[2]}{value}" for key, value in (varied or {}).items())]
    return "-".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)


def parse_variation(text: str) -> dict[str, list[Any]]:
    """`model.width=4,8,16` as `{"model.width": [4, 8, 16]}`: values as `parse_assignment` takes them.

    Raises UserError if it is not of this form.
    """
    key, equals, raw = text.partition("=")
    if not (equals and key.strip() and raw.strip()):
        raise UserError(f"--vary takes key=value,value, for example model.width=8,16, not '{text}'")
    return {key.strip(): [parse_assignment(f"value={part.strip()}")["value"] for part in raw.split(",")]}


def sweep(
    grid: Grid | Mapping[Path, Config],
    out: str | Path = "sweeps/sweep",
    *,
    jobs: int | None = None,
    device: str = "auto",
    compile: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Path, CoProbeError | None]]:
    """Train every cell of a grid into `out`, `jobs` at a time; yields each run's folder, and its error or None.

    Cells that are complete are not trained again, those that stopped halfway go on; a failed one does not stop the
    others. `jobs`: one a core if not given, or one in all on a GPU. `compile`: run training steps through
    torch.compile. `progress`: (epochs finished, epochs planned).
    Raises UserError if the grid cannot be used.

    >>> for path, error in co_probe.sweep(Grid(methods=("fgsm", "pgd"), epsilons=(4 / 255, 8 / 255)), "sweeps/first"):
    ...     print(path, error or "done")
    """
    from co_probe.runs.build import pick_device
    from co_probe.sweeps.processes import run_all

    cells = grid.cells(Path(out)) if isinstance(grid, Grid) else dict(grid)
    complete = [path for path, config in cells.items() if is_complete(path, config)]
    yield from ((path, None) for path in complete)
    left = {path: config for path, config in cells.items() if path not in complete}
    if left:
        if jobs is None and pick_device(device).type == "cuda":
            jobs = 1
        yield from run_all(left, jobs=jobs, device=device, compile=compile, progress=progress)


def is_complete(path: Path, config: Config) -> bool:
    """Whether the run is there, with these settings and all of its epochs."""
    try:
        stored = StoredRun(path)
        return stored.config == config and stored.epochs[-1:] == [stored.planned]
    except CoProbeError:
        return False


def split(text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """A comma-separated list as a person types it. Raises UserError for an entry that is not of this kind."""
    parts: Iterable[str] = filter(None, map(str.strip, text.split(",")))
    try:
        return tuple(kind(part) for part in parts)
    except ValueError:
        raise UserError(f"'{text}' is not a list of whole numbers: give it as 0,1,2") from None

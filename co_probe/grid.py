"""Many runs at once: a grid of methods, ε and seeds, in one folder."""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from co_probe.config import Config, parse_number
from co_probe.errors import CoProbeError, UserError, unknown
from co_probe.labels import epsilon_label
from co_probe.methods import METHODS
from co_probe.presets import configure
from co_probe.store import StoredRun


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to sweep over: every method with every ε and every seed.

    `epsilons`: pixel units (numbers, or texts like `8/255`), the preset's one if there are none; `settings`: over the
    preset, nested like it; they hold for every cell.
    Raises UserError if there is nothing to sweep over, or for something twice.
    """

    methods: tuple[str, ...]
    epsilons: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    preset: str = "digits"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "epsilons", tuple(map(parse_number, self.epsilons)))
        for name in ("methods", "epsilons", "seeds"):
            values = tuple(getattr(self, name))
            if len(set(values)) < len(values):
                raise UserError(f"the sweep has one of its {name} twice")
            object.__setattr__(self, name, values)
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
        for name in ("methods", "epsilons", "seeds"):
            if not isinstance(data.get(name, []), list | tuple):
                raise UserError(f"sweep file {path}: {name} must be a list")
        return cls(**data)

    def cells(self, out: Path) -> dict[Path, Config]:
        """{folder of a run: its settings}, method by method; folders are named like `fgsm-eps8of255-seed0`.

        Raises UserError for an unknown method, preset or setting, or a value out of range.
        """
        cells: dict[Path, Config] = {}
        for method in self.methods:
            METHODS.check(method)
            for epsilon in self.epsilons or (None,):
                for seed in self.seeds:
                    given = {} if epsilon is None else {"epsilon": epsilon}
                    config = configure(self.preset, method, self.settings, given, {"seed": seed})
                    path = out / cell_name(config)
                    if path in cells:
                        raise UserError(f"two cells of the sweep would be named {path.name}")
                    cells[path] = config
        return cells


def cell_name(config: Config) -> str:
    """`fgsm-eps8of255-seed0`: what tells a run of a sweep from the others, as a folder's name."""
    method = re.sub(r"[^\w.-]+", "-", config.method.name)
    return f"{method}-eps{epsilon_label(config.epsilon).replace('/', 'of')}-seed{config.seed}"


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
    from co_probe.build import pick_device
    from co_probe.training.pool import run_all

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

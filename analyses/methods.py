"""All methods in one table: robust accuracy over seeds, collapses and cost (`co-probe leaderboard`).

    python analyses/methods.py digits                            digits at the demo's ε and at a larger one
    python analyses/methods.py cifar10-jpeg-small --data FOLDER  CIFAR-10 as JPEG images, on a small network
    python analyses/methods.py digits --methods fgsm,n-fgsm --jobs 2

On a GPU add `--compile`.

Every registered method is trained with every seed. Each run has its own process, which trains it, attacks it, and
deletes the weights that the table does not need. Finished runs in sweeps/SCALE are neither trained nor attacked again,
so the same command continues after an interruption. AutoAttack, which takes longest, comes last. The tables are written
after each run; `--parts table` only writes them:

    methods.md, .tex, .html, .csv    the leaderboard of all finished runs in sweeps/SCALE
    methods-runs.csv                 a row per run and attack, including earlier runs that sweeps/SCALE no longer has
    methods-seeds.md                 mean ± standard deviation over all seeds of methods-runs.csv, for each method and ε
"""

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

import co_probe
from co_probe.config import Config
from co_probe.config.labels import attack_label, method_label
from co_probe.config.presets import configure
from co_probe.methods import METHODS
from co_probe.probes.eval import Eval
from co_probe.reporting.tables import markdown_table, mean_and_spread
from co_probe.runs import Run
from co_probe.store import StoredRun
from co_probe.store.thinning import drop_weights
from co_probe.sweeps.grid import cell_name
from co_probe.sweeps.processes import Processes
from co_probe.sweeps.sweep import is_complete
from co_probe.training.loop import epochs

ABLATION: dict[str, Any] = {"title": "APART without learned initialisation", "learn_initialisation": False}
ATTACKS = ("clean", "pgd50x10", "aa")
EPOCHS = ("best", "last")
Attacks = tuple[tuple[str, str], ...]  # (attack, at which epoch)
PGD: Attacks = tuple((attack, at) for attack in ("clean", "pgd50x10") for at in EPOCHS)
AUTOATTACK: Attacks = (("aa", "last"),)


@dataclass(frozen=True)
class Scale:
    """What a table is of.

    Attributes:
        preset: The preset of its runs.
        epsilons: Norm bounds: a table each.
        seeds: Seeds.
        images: Number of test images under PGD-50-10 and AutoAttack; clean accuracy is on all.
        auto_attack_seeds: Seeds that AutoAttack is tried on, at the last epoch.
        settings: What differs from the preset.
    """

    preset: str
    epsilons: tuple[float | str, ...]
    seeds: tuple[int, ...]
    images: int
    auto_attack_seeds: tuple[int, ...] = (0,)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Computing:
    """Where and how a run is made.

    Attributes:
        device: `auto`, `cpu`, `cuda`.
        compile: Train through torch.compile.
        keep_weights: Keep the weights of every epoch, not only of the best and the last one.
    """

    device: str
    compile: bool
    keep_weights: bool


SCALES = {
    "digits": Scale("digits", (0.15, 0.2), (0, 1, 2), 200, settings={"probe": {"test": 200}}),
    "cifar10-jpeg-small": Scale(
        "cifar10-small",
        ("16/255",),
        (0,),
        200,
        settings={
            "data": {"title": "CIFAR-10 (JPEG)", "limit": 50_000},
            "precision": "float32",
            "probe": {"validation": 0},
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scale", choices=SCALES)
    parser.add_argument("--data", help="folder of the images, with train/CLASS/ and test/CLASS/")
    parser.add_argument("--methods", help="methods, separated by commas [default: all that are registered]")
    parser.add_argument("--seeds", help="seeds, separated by commas [default: those of the scale]")
    parser.add_argument("--aa-seeds", help="seeds under AutoAttack [default: those of the scale]")
    parser.add_argument("--epochs", type=int, help="a trial with fewer epochs; give it --runs and --out of its own")
    parser.add_argument("--runs", type=Path, help="folder of the runs [default: sweeps/SCALE]")
    parser.add_argument("--out", type=Path, help="folder of the tables [default: figures/SCALE]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes [default: one a core]")
    parser.add_argument("--parts", default="runs,table", help="[default: %(default)s]")
    parser.add_argument("--keep-weights", action="store_true", help="keep the weights of every epoch")
    parser.add_argument("--device", default="auto", help="[default: %(default)s]")
    parser.add_argument("--compile", action="store_true", help="run networks through torch.compile")
    arguments = parser.parse_args()
    scale = SCALES[arguments.scale]
    if arguments.data:
        scale.settings["data"]["name"] = f"image-folder:{Path(arguments.data).resolve()}"
    elif arguments.scale == "cifar10-jpeg-small":
        parser.error("--data is missing")
    if arguments.seeds:
        scale = replace(scale, seeds=tuple(map(int, arguments.seeds.split(","))))
    if arguments.aa_seeds:
        scale = replace(scale, auto_attack_seeds=tuple(map(int, arguments.aa_seeds.split(","))))
    if arguments.epochs:
        scale = replace(scale, settings={**scale.settings, "epochs": arguments.epochs})
    if arguments.epochs and not (arguments.runs and arguments.out):
        parser.error("--epochs needs --runs and --out")

    folder = arguments.runs or Path("sweeps") / arguments.scale
    out = arguments.out or Path(__file__).parents[1] / "figures" / arguments.scale
    parts = arguments.parts.split(",")
    how = Computing(arguments.device, arguments.compile, arguments.keep_weights)
    cells = all_cells(scale, folder, arguments.methods.split(",") if arguments.methods else None)
    if "runs" in parts:
        strong = {path: config for path, config in cells.items() if config.seed in scale.auto_attack_seeds}
        for some, attacks in ((cells, PGD), (strong, AUTOATTACK)):
            for path, error in make_runs(some, attacks, scale.images, arguments.jobs, how):
                print(path.name, error or "done", flush=True)
                write_tables(all_cells(scale, folder, None), scale, out, arguments.scale)
    if "table" in parts:
        write_tables(all_cells(scale, folder, None), scale, out, arguments.scale)


def all_cells(scale: Scale, folder: Path, methods: list[str] | None) -> dict[Path, Config]:
    """Every method, and the ablation that is no method of its own, by ε and seed: what is finished first is a table."""
    names = methods or [name for name in METHODS if "linf" in METHODS.load(name).norms and name != "shrink"]
    wanted: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in names]
    if methods is None or "apart" in methods:
        wanted.append(("apart", ABLATION))
    cells = {}
    for seed in scale.seeds:
        for epsilon in scale.epsilons:
            for name, settings in wanted:
                own = [{"epsilon": epsilon}, {"seed": seed}, *([{"method": settings}] if settings else [])]
                config = with_few_steps(configure(scale.preset, name, scale.settings, *own))
                cells[folder / cell_name(config, {f"method.{key}": value for key, value in settings.items()})] = config
    return cells


def with_few_steps(config: Config) -> Config:
    """APART with a rate for as many steps as there are: the paper's own is for many more, and moves nothing here."""
    raw = {name: None for name in ("raw_penalty", "raw_rate") if name in config.method.settings}
    return replace(config, method=replace(config.method, settings={**config.method.settings, **raw}))


def make_runs(
    cells: dict[Path, Config], attacks: Attacks, images: int, jobs: int, how: Computing
) -> Iterator[tuple[Path, BaseException | None]]:
    """Train and attack runs, each in a process of its own; yield the folder of each and its error, or None."""
    os.environ["OMP_NUM_THREADS"] = "1"  # in the processes to come, which share the cores
    processes = Processes(jobs)
    try:
        futures = {
            processes.submit(make_run, str(path), config.to_dict(), attacks, images, how): path
            for path, config in cells.items()
        }
        for future in as_completed(futures):
            yield futures[future], future.exception()
    finally:
        processes.shutdown()


def make_run(path: str, settings: dict[str, Any], attacks: Attacks, images: int, how: Computing) -> None:
    """Train a run to its end, attack its best and its last epoch, and delete all other weights."""
    config = Config.from_dict(settings)
    if not is_complete(Path(path), config):
        for _ in epochs(config, path, resume=True, device=how.device, compile=how.compile):
            pass
    for attack, at in attacks:
        count = None if attack == "clean" else images
        if not known(StoredRun(path), attack, at, count):
            co_probe.evaluate(path, [attack], epoch=at, images=count, device=how.device)
    co_probe.leaderboard(path, attacks=["clean"], epochs=["last"], device=how.device)  # stores the passes of a step
    if not how.keep_weights:
        run = StoredRun(path)
        drop_weights(path, {run.best_epoch, run.last_epoch})


def known(run: StoredRun, attack: str, at: str, images: int | None) -> bool:
    """Whether an attack is stored already, on so many images (None: on any number)."""
    found = Eval(attacks=[attack], epoch=at, images=images).select(run.frame("eval"), run)
    return len(found) > 0


def write_tables(cells: dict[Path, Config], scale: Scale, out: Path, name: str) -> None:
    """Write the tables of all runs that are finished."""
    finished = [path for path, config in cells.items() if is_complete(path, config)]
    runs = [Run(path) for path in finished if known(StoredRun(path), "pgd50x10", "last", scale.images)]
    if not runs:
        return
    board = co_probe.leaderboard(runs, attacks=ATTACKS, epochs=EPOCHS, quick=True)
    out.mkdir(parents=True, exist_ok=True)
    texts = {"md": board.to_markdown(), "tex": board.to_latex(), "html": board.to_html(), "csv": board.to_csv()}
    for suffix, text in texts.items():
        (out / f"methods.{suffix}").write_text(text)
    rows, file = per_run(runs), out / "methods-runs.csv"
    if file.exists():
        old = pd.read_csv(file)
        rows = pd.concat([old[~old["run"].isin(rows["run"])], rows], ignore_index=True)
    rows.to_csv(file, index=False, float_format="%.6g")
    (out / "methods-seeds.md").write_text(over_seeds(rows))
    about = {"command": f"python analyses/methods.py {name}", "runs": len(runs), "of": len(cells)}
    (out / "methods.json").write_text(json.dumps({**about, **runs[0].environment}, indent=1) + "\n")


def per_run(runs: list[Run]) -> pd.DataFrame:
    """A row per run, epoch and attack, with the verdict on the run."""
    frames = []
    for run in runs:
        for at in EPOCHS:
            frame = Eval(attacks=list(ATTACKS), epoch=at).select(run.frame("eval"), run)
            frames.append(frame.assign(at=at, verdict=run.verdict.kind))
    columns = ["run", "method", "seed", "epsilon", "at", "epoch", "attack", "value", "low", "high", "n", "verdict"]
    return pd.concat(frames, ignore_index=True)[columns]


def over_seeds(rows: pd.DataFrame) -> str:
    """Accuracies (%) of each method and ε over seeds, and the verdicts on its runs, as Markdown."""
    tables = []
    titles = [title_of(run, method) for run, method in zip(rows["run"], rows["method"], strict=True)]
    columns = [
        column for column in product(EPOCHS, ATTACKS) if column in set(zip(rows["at"], rows["attack"], strict=True))
    ]
    header = ["method", "seeds", *(f"{attack_label(attack)}, {at}" for at, attack in columns), "verdicts"]
    for epsilon, of_epsilon in rows.assign(title=titles).groupby("epsilon"):
        at_last = of_epsilon[(of_epsilon["at"] == "last") & (of_epsilon["attack"] == "pgd50x10")]
        order = at_last.groupby("title")["value"].mean().sort_values(ascending=False).index
        body = [[title, *summary(of_epsilon[of_epsilon["title"] == title], columns)] for title in order]
        tables.append(
            markdown_table(f"ε = {epsilon:g}: accuracy (%), mean ± standard deviation over seeds", header, body)
        )
    return "\n\n".join(tables) + "\n"


def summary(part: pd.DataFrame, columns: list[tuple[str, str]]) -> list[str]:
    """The cells of one method: number of seeds, accuracies, verdicts."""
    values = {column: group["value"].tolist() for column, group in part.groupby(["at", "attack"])}
    verdicts = part.drop_duplicates("run")["verdict"].value_counts()
    return [
        str(verdicts.sum()),
        *(mean_and_spread(values.get(column, []), lambda share: f"{100 * share:.1f}") for column in columns),
        ", ".join(f"{count} {kind}" for kind, count in verdicts.items()),
    ]


def title_of(run: str, method: str) -> str:
    """The method's label; of the ablation, its title."""
    return ABLATION["title"] if "learn_initialisation" in run else method_label(method)


if __name__ == "__main__":
    main()

"""A table like Table 3 of arXiv 2010.08034, with the ablation of Table 6 in it: every method under every attack.

    python analyses/methods.py digits                        into figures/digits/methods.md
    python analyses/methods.py cifar10-jpeg --data FOLDER    CIFAR-10 as JPEG images, much smaller than the paper's runs

In order (`--parts`): `runs` trains and attacks, `cost` times steps on a machine that should be idle, `table` writes
what these two measured.

Runs are kept in sweeps/SCALE, and what is there already is neither trained nor evaluated again. Beside the table: the
tidy numbers that it was made from, and the machine and versions.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import co_probe
from co_probe.config import Config
from co_probe.config.labels import attack_label, labels
from co_probe.config.presets import configure
from co_probe.methods import METHODS
from co_probe.store import StoredRun
from co_probe.sweeps.grid import Grid
from co_probe.sweeps.sweep import train_cells

ABLATION = {"title": "APART without learned initialisation", "learn_initialisation": False}
ATTACKS = ("clean", "gaussian", "pgd20", "cw")
AT_THE_END = ("clean", "pgd20")
COLUMNS = [("best", attack) for attack in (*ATTACKS, "aa")] + [("last", attack) for attack in AT_THE_END]


@dataclass(frozen=True)
class Scale:
    """The seeds, how many test images the attacks are tried on, and what differs from a preset.

    AutoAttack takes minutes a run even at these scales: it gets seeds and a number of images of its own.
    """

    preset: str
    seeds: tuple[int, ...]
    images: int | None
    auto_attack_seeds: tuple[int, ...]
    auto_attack_images: int
    settings: dict[str, Any] = field(default_factory=dict)


SCALES = {
    "digits": Scale("digits", (0, 1, 2), None, (0,), 100, {"probe": {"test": 200}}),
    "cifar10-jpeg": Scale(
        "cifar10-30",
        (0,),
        500,
        (0,),
        50,
        {
            "epochs": 8,
            "data": {"title": "CIFAR-10 (JPEG)", "limit": 2500},
            "model": {"name": "preact_resnet", "width": 16, "blocks": [1, 1, 1]},
            "probe": {"test": 100},
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scale", choices=SCALES)
    parser.add_argument("--data", help="folder of the images, with train/CLASS/ and test/CLASS/")
    parser.add_argument("--runs", type=Path, help="folder of the runs [default: sweeps/SCALE]")
    parser.add_argument("--out", type=Path, help="folder of the table [default: figures/SCALE]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes [default: one a core]")
    parser.add_argument("--parts", default="runs,cost,table", help="[default: %(default)s]")
    arguments = parser.parse_args()
    scale, folder = SCALES[arguments.scale], arguments.runs or Path("sweeps") / arguments.scale
    out = arguments.out or Path(__file__).parents[1] / "figures" / arguments.scale
    if arguments.data:
        scale.settings["data"]["name"] = f"image-folder:{Path(arguments.data).resolve()}"
    elif arguments.scale == "cifar10-jpeg":
        parser.error("--data is missing")

    cells, parts = all_cells(scale, folder), arguments.parts.split(",")
    out.mkdir(parents=True, exist_ok=True)
    if "runs" in parts:
        measure(cells, scale, arguments.jobs).to_csv(out / "methods.csv", index=False, float_format="%.6g")
        about = {"command": f"python analyses/methods.py {arguments.scale}", **StoredRun(next(iter(cells))).environment}
        (out / "methods.json").write_text(json.dumps(about, indent=1) + "\n")
    if "cost" in parts:
        # Seconds of runs that shared a machine say little: steps are timed in turns.
        names = sorted({config.method.name for config in cells.values()})
        cost = co_probe.bench(names, parts=["steps"], repeats=5, preset=scale.preset, settings=scale.settings)
        cost.to_csv(out / "cost.csv", index=False, float_format="%.6g")
    if "table" in parts:
        frame, cost = pd.read_csv(out / "methods.csv"), pd.read_csv(out / "cost.csv")
        ratios = cost[cost["quantity"] == "ratio"].set_index("subject")["value"]
        (out / "methods.md").write_text(markdown(frame, ratios.to_dict(), caption(scale, frame)))


def measure(cells: dict[Path, Config], scale: Scale, jobs: int) -> pd.DataFrame:
    """Train the runs and attack their models; one row per run, attack and epoch."""
    for path, error in train_cells(cells, jobs=jobs):
        print(path, error or "trained", flush=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # in the processes to come, which share the cores
    with ProcessPoolExecutor(jobs) as pool:
        frames = list(pool.map(partial(evaluate, scale=scale), cells, cells.values()))
    frame = pd.concat(frames, ignore_index=True)
    return frame[frame["quantity"] == "accuracy"]


def all_cells(scale: Scale, folder: Path) -> dict[Path, Config]:
    """Every method with every seed, and the ablation that is no method of its own (the other one is APART-Simple)."""
    methods = tuple(name for name in METHODS if "linf" in METHODS.load(name).norms)
    grid = Grid(methods=methods, seeds=scale.seeds, preset=scale.preset, settings=scale.settings)
    ablations = {
        folder / f"apart-without-initialisation-seed{seed}": configure(
            scale.preset, "apart", scale.settings, {"seed": seed, "method": ABLATION}
        )
        for seed in scale.seeds
    }
    return {path: with_few_steps(config) for path, config in (grid.cells(folder) | ablations).items()}


def with_few_steps(config: Config) -> Config:
    """APART with a rate for as many steps as there are: the paper's own is for many more, and moves nothing here."""
    raw = {name: None for name in ("raw_penalty", "raw_rate") if name in config.method.settings}
    return replace(config, method=replace(config.method, settings={**config.method.settings, **raw}))


def evaluate(run: Path, config: Config, scale: Scale) -> pd.DataFrame:
    """The numbers of one run, with a column that says at which epoch: `best` (under PGD-10) or `last`."""
    parts = [
        ("best", co_probe.evaluate(run, ATTACKS, images=scale.images)),
        ("last", co_probe.evaluate(run, AT_THE_END, epoch="last", images=scale.images)),
    ]
    if config.seed in scale.auto_attack_seeds:
        parts += [("best", co_probe.evaluate(run, ["aa"], images=scale.auto_attack_images).query("attack == 'aa'"))]
    print(run, "evaluated", flush=True)
    return pd.concat([frame.assign(at=at) for at, frame in parts], ignore_index=True)


def caption(scale: Scale, frame: pd.DataFrame) -> str:
    """What is in the table, and how small it is."""
    config = configure(scale.preset, "fgsm", scale.settings)
    sizes = frame.groupby("attack")["n"].first()
    limit = config.data.settings.get("limit")
    data = config.data_title + (f", {limit} training images" if limit else "")
    model = ", ".join([config.model.name, *(f"{key} {value}" for key, value in config.model.settings.items())])
    run = f"ε = {config.epsilon:.4g}, {config.epochs} epochs, batches of {config.batch_size}"
    seeds = f"{len(scale.seeds)} seeds" if len(scale.seeds) > 1 else f"seed {scale.seeds[0]} alone"
    aa = f"{sizes['aa']} for AutoAttack"
    if scale.auto_attack_seeds != scale.seeds:
        aa += f", of seed {', '.join(map(str, scale.auto_attack_seeds))} alone"
    return (
        f"{data}; {model}; {run}; {seeds}. Accuracy (%) on {sizes['clean']} test images ({aa}) at the epoch that was "
        "best under PGD-10, and at the last one; cost of a training step in steps of clean training, timed in turns."
    )


def markdown(frame: pd.DataFrame, cost: dict[str, float], above: str) -> str:
    """Mean ± standard deviation (n − 1) over seeds, a line a method; `cost`: of a step, in steps of clean training."""
    heads = [attack_label(attack) + (" (last epoch)" if at == "last" else "") for at, attack in COLUMNS]
    lines = [above, "", f"| method | {' | '.join(heads)} | cost of a step |", "|---" * (len(heads) + 2) + "|"]
    order = sorted(frame["method"].unique(), key=lambda name: (not name.startswith("standard"), name.lower()))
    for method in order:
        rows = frame[(frame["method"] == method) & (frame["quantity"] == "accuracy")]
        cells = []
        for at, attack in COLUMNS:
            values = 100 * rows.loc[(rows["at"] == at) & (rows["attack"] == attack), "value"]
            mean = f"{values.mean():.1f}" if len(values) else "–"
            cells.append(mean + (f" ± {values.std():.1f}" if len(values) > 1 else ""))
        ratio = f"{cost[method]:.1f}" if method in cost else ""
        lines.append(f"| {labels('method').get(method, method)} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

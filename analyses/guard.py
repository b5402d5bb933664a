"""FGSM with each guard, beside FGSM alone and the remedies throughout, into figures/guard/.

    python analyses/guard.py                        trains and attacks 21 runs of the preset digits
    python analyses/guard.py --data FOLDER          the same with the preset cifar10-small on CIFAR-10 as JPEG images
    python analyses/guard.py --seeds 1 --rows fgsm  fewer
    python analyses/guard.py --parts table          writes the table and the figure of the runs measured so far

On a GPU add `--compile`. PGD-20 and AutoAttack attack the last epoch of each run, on test images that were
not used before. The guard `stop` needs no separate run: its result is FGSM's last epoch before the step at which the
guard `pgd2` switches. Cost is counted in passes: a forward and a backward pass per training image, two per step of FGSM
and N-FGSM, k + 1 of PGD-k.
"""

import argparse
import json
import os
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

import co_probe
from co_probe.config import Config
from co_probe.config.presets import configure
from co_probe.store import StoredRun
from co_probe.sweeps.processes import Processes, cores
from co_probe.sweeps.sweep import is_complete, train_cells

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Scale:
    """What the runs are of.

    Attributes:
        preset: Their preset.
        epsilon: Their norm bound.
        folder: Name of the folders of the runs and of the results.
        settings: What differs from the preset.
    """

    preset: str
    epsilon: float
    folder: str
    settings: dict[str, Any]


DIGITS = Scale("digits", 0.15, "guard", {"probe": {"test": 100, "train": 50, "validation": 0}})
JPEG = Scale(
    "cifar10-small",
    16 / 255,
    "guard-cifar10-jpeg",
    {
        "precision": "float32",
        "probe": {"validation": 0},
        "data": {"title": "CIFAR-10 (JPEG)", "limit": 10000},
    },
)
# name -> (title, method, settings, passes per step)
ROWS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "fgsm": ("FGSM", "fgsm", {}, 2),
    **{f"guard-{kind}": (f"FGSM, guard {kind}", "fgsm", {"guard": kind}, 2) for kind in ("pgd2", "n-fgsm", "rollback")},
    "n-fgsm": ("N-FGSM", "n-fgsm", {}, 2),
    "pgd2": ("PGD-2, steps of ε/2", "pgd", {"method": {"steps": 2}}, 3),
    "pgd10": ("PGD-10", "pgd", {}, 11),
}
REMEDY_PASSES = {"pgd2": 3, "rollback": 3, "n-fgsm": 2}
STOPPED = "FGSM, guard stop"
COLUMNS = {"clean": "clean", "pgd20": "PGD-20", "aa": "AutoAttack"}


def main() -> None:
    """Train, attack, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of images, with train/CLASS/ and test/CLASS/ [default: digits]")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 [default: %(default)s]")
    parser.add_argument("--rows", default=",".join(ROWS), help="[default: all]")
    parser.add_argument("--images", type=int, default=200, help="for AutoAttack [default: %(default)s]")
    parser.add_argument("--pgd-images", type=int, help="for PGD-20 [default: all test images]")
    parser.add_argument("--runs", type=Path, help="folder of the runs [default: sweeps/guard, or guard-cifar10-jpeg]")
    parser.add_argument("--out", type=Path, help="[default: figures/guard, or figures/guard-cifar10-jpeg]")
    parser.add_argument("--jobs", type=int, help="processes [default: one for each core, or for each GPU]")
    parser.add_argument("--device", default="auto", help="[default: %(default)s]")
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    parser.add_argument("--parts", default="runs,attacks,table", help="[default: %(default)s]")
    arguments = parser.parse_args()
    parts, wanted = arguments.parts.split(","), arguments.rows.split(",")
    scale = JPEG if arguments.data else DIGITS
    if arguments.data:
        scale.settings["data"]["name"] = f"image-folder:{Path(arguments.data).resolve()}"
    runs = arguments.runs or Path("sweeps") / scale.folder
    out = arguments.out or Path(__file__).parents[1] / "figures" / scale.folder
    names = {runs / f"{row}-seed{seed}": (row, seed) for seed in range(arguments.seeds) for row in wanted}
    cells = {path: settings_of(scale, row, seed) for path, (row, seed) in names.items()}
    how = {"device": arguments.device, "jobs": arguments.jobs}
    images = {"aa": arguments.images, "pgd20": arguments.pgd_images}
    if "runs" in parts:
        for path, error in train_cells(cells, compile=arguments.compile, **how):
            print(path, error or "trained", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    complete = {path: names[path] for path, config in cells.items() if is_complete(path, config)}
    if "attacks" in parts:
        evaluate_all([(path, "last") for path in complete] + list(stopped(complete).items()), images, **how)
    if "table" in parts and complete:
        rows = [numbers(path, row, StoredRun(path).last_epoch) for path, (row, _) in complete.items()]
        rows += [numbers(path, STOPPED, epoch) for path, epoch in stopped(complete).items()]
        table = pd.DataFrame(rows).dropna(subset="pgd20")
        table = table.sort_values("row", key=lambda names: names.map([*ROWS, STOPPED].index), kind="stable")
        table.to_csv(out / "guard.csv", index=False, float_format="%.5g")
        (out / "guard.md").write_text(markdown(table), encoding="utf-8")
        draw(table, complete, out / "guard.png")
        command = "python analyses/guard.py" + (" --data FOLDER" if arguments.data else "")
        for name in ("seeds", "rows", "images", "pgd_images", "compile"):
            if (value := getattr(arguments, name)) != parser.get_default(name):
                command += f" --{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        about = {"command": command, **StoredRun(next(iter(complete))).environment}
        (out / "environment.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def stopped(complete: dict[Path, tuple[str, int]]) -> dict[Path, int]:
    """{run of FGSM: its last epoch before the step at which the guard fires}."""
    found = {}
    for path, (row, seed) in complete.items():
        alone = path.with_name(f"fgsm-seed{seed}")
        if row == "guard-pgd2" and alone in complete and (switch := switched_at(StoredRun(path))):
            found[alone] = switch // steps_per_epoch(StoredRun(path))
    return found


def switched_at(run: StoredRun) -> int:
    """The step at which the guard of a run has switched; 0 if it has not."""
    return int(run.metrics(run.last_epoch).get("guard_step", 0))


def steps_per_epoch(run: StoredRun) -> int:
    """The number of optimizer steps per epoch."""
    assert run.info.steps_per_epoch
    return run.info.steps_per_epoch


def settings_of(scale: Scale, row: str, seed: int) -> Config:
    """The settings of a run."""
    _, method, settings, _ = ROWS[row]
    config = configure(scale.preset, method, {"seed": seed, "epsilon": scale.epsilon}, scale.settings, settings)
    if row == "pgd2":
        steps = config.method.settings | {"step_size": scale.epsilon / 2}
        config = replace(config, method=replace(config.method, settings=steps))
    return config


def evaluate_all(
    epochs: list[tuple[Path, int | str]], images: dict[str, int | None], device: str, jobs: int | None
) -> None:
    """Attack epochs of runs, `jobs` at a time."""
    os.environ["OMP_NUM_THREADS"] = "1"  # in the processes to come, which share the cores
    processes = Processes(jobs or cores())
    try:
        waiting = [processes.submit(evaluate, path, epoch, images, device) for path, epoch in epochs]
        for future in as_completed(waiting):
            future.result()
    finally:
        processes.shutdown()


def evaluate(path: Path, epoch: int | str, images: dict[str, int | None], device: str) -> None:
    """Attack an epoch by each attack of `images` on so many test images (None: all); the run stores the tables."""
    for attack, count in images.items():
        co_probe.evaluate(path, ["clean", attack], epoch=epoch, images=count, device=device)
    print(path, epoch, "attacked", flush=True)


def numbers(path: Path, row: str, epoch: int) -> dict[str, object]:
    """Accuracies at an epoch, the step of the switch, and the cost of a run; NaN where a number was not measured."""
    run = StoredRun(path)
    found = run.frame("eval")
    if len(found) == 0:
        found = pd.DataFrame(columns=["quantity", "epoch", "attack", "value", "n"])
    found = found[(found["quantity"] == "accuracy") & (found["epoch"] == epoch)].sort_values("n")
    value = found.drop_duplicates("attack", keep="last").set_index("attack")
    title, _, _, passes = ROWS.get(row, (row, "", {}, 2))
    steps, switched = run.last_epoch * steps_per_epoch(run), switched_at(run)
    if row == STOPPED:
        switched = epoch * steps_per_epoch(run)
        cost = passes * switched / steps
    else:
        after = steps - switched if switched else 0
        cost = (passes * (steps - after) + REMEDY_PASSES.get(row.removeprefix("guard-"), 0) * after) / steps
    return {
        "row": row,
        "title": title,
        "seed": run.config.seed,
        "epoch": epoch,
        "switched": switched or None,
        **{attack: value["value"].get(attack, float("nan")) for attack in COLUMNS},
        **{f"{attack}_images": value["n"].get(attack, 0) for attack in COLUMNS},
        "passes": cost,
    }


def markdown(table: pd.DataFrame) -> str:
    """A line per row: means over seeds, and each seed's accuracy under PGD-20."""
    lines = [
        f"| training | seeds | switch at step | {' | '.join(COLUMNS.values())} | PGD-20, each seed | passes per step |",
        "|---" * (len(COLUMNS) + 5) + "|",
    ]
    for title, part in table.groupby("title", sort=False):
        cells = []
        for attack in COLUMNS:
            known = 100 * part[attack].dropna()
            seeds = part.loc[known.index, "seed"]
            few = f" (seed {', '.join(map(str, seeds))} alone)" if len(known) < len(part) else ""
            cells.append(f"{known.mean():.1f}%{few}" if len(known) else "–")
        switched = ", ".join("–" if pd.isna(step) else f"{step:.0f}" for step in part["switched"])
        each = ", ".join(f"{100 * value:.1f}" for value in part["pgd20"])
        lines.append(
            f"| {title} | {len(part)} | {switched if part['switched'].notna().any() else ''} "
            f"| {' | '.join(cells)} | {each} | {part['passes'].mean():.2f} |"
        )
    images = "; ".join(f"{label} on {table[f'{attack}_images'].max():.0f}" for attack, label in COLUMNS.items())
    return (
        "\n".join(lines) + f"\n\nTest images: {images}. A pass is a forward and a backward pass per training image.\n"
    )


def draw(table: pd.DataFrame, names: dict[Path, tuple[str, int]], path: Path) -> None:
    """Robust accuracy over the epochs, a line per seed; and final accuracy against cost."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", width_ratios=(1.7, 1))
    colors = {row: f"C{place}" for place, row in enumerate((*ROWS, STOPPED))}
    for folder, (row, _) in names.items():
        if row not in ("fgsm", "guard-pgd2", "pgd2"):
            continue
        run = StoredRun(folder)
        curve = [100 * run.metrics(epoch)["pgd10"] for epoch in run.epochs]
        left.plot(run.epochs, curve, color=colors[row], lw=1.2, alpha=0.8)
        if switched := switched_at(run):
            left.axvline(switched / steps_per_epoch(run), color=colors[row], lw=0.9, ls=(0, (1, 1.5)))
    left.set(xlabel="epoch", ylabel="accuracy under PGD-10 (%)", ylim=(0, None))
    left.set_title("each seed; dotted: the switch to PGD-2", fontsize=9, loc="left")
    for row, part in table.groupby("row", sort=False):
        look = {"color": colors[str(row)], "ms": 6, "alpha": 0.75, "mew": 0, "label": part["title"].iloc[0]}
        right.plot(part["passes"], 100 * part["pgd20"], "o", **look)
    right.set(xlabel="passes per step", ylabel="accuracy under PGD-20 (%)", ylim=(-3, None))
    right.set_title("at the end, a dot per seed", fontsize=9, loc="left")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

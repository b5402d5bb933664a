"""FGSM that gives way to a remedy on the alarm, beside FGSM alone and the remedies throughout, into figures/guard/.

    python analyses/guard.py                trains 27 runs of the preset digits in sweeps/guard, or goes on, and attacks
    python analyses/guard.py --seeds 1      fewer
    python analyses/guard.py --parts table  writes the table and the figure of what has been measured

The last epoch of each run is attacked, by PGD-20 and AutoAttack, on test images that nothing was chosen by. Cost is
counted in passes: a forward and a backward pass per training image, two per step of FGSM and of N-FGSM, k + 1 of PGD-k.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import pandas as pd

import co_probe
from co_probe.config import Config
from co_probe.config.presets import configure
from co_probe.config.settings import GUARDS
from co_probe.errors import CoProbeError
from co_probe.store import StoredRun
from co_probe.sweeps.sweep import is_complete, train_cells

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PROBE = {"probe": {"test": 100, "train": 50, "validation": 0}}
EPSILON = 0.15
# name -> (title, method, settings, passes per step)
ROWS = {
    "fgsm": ("FGSM", "fgsm", {}, 2),
    **{f"guard-{kind}": (f"FGSM, guard {kind}", "fgsm", {"guard": kind}, 2) for kind in GUARDS},
    "n-fgsm": ("N-FGSM", "n-fgsm", {}, 2),
    "pgd2": ("PGD-2, steps of ε/2", "pgd", {"method": {"steps": 2, "step_size": EPSILON / 2}}, 3),
    "pgd10": ("PGD-10", "pgd", {}, 11),
}
REMEDY_PASSES = {"pgd2": 3, "rollback": 3, "n-fgsm": 2}
COLUMNS = {"clean": "clean", "pgd20": "PGD-20", "aa": "AutoAttack"}


def main() -> None:
    """Train, attack, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 [default: %(default)s]")
    parser.add_argument("--rows", default=",".join(ROWS), help="[default: all]")
    parser.add_argument("--images", type=int, default=200, help="for AutoAttack [default: %(default)s]")
    parser.add_argument("--runs", type=Path, default=Path("sweeps/guard"), help="[default: %(default)s]")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "guard")
    parser.add_argument("--jobs", type=int, help="processes [default: one for each core]")
    parser.add_argument("--parts", default="runs,attacks,table", help="[default: %(default)s]")
    arguments = parser.parse_args()
    parts, wanted = arguments.parts.split(","), arguments.rows.split(",")
    names = {arguments.runs / f"{row}-seed{seed}": (row, seed) for seed in range(arguments.seeds) for row in wanted}
    cells = {path: settings_of(row, seed) for path, (row, seed) in names.items()}
    if "runs" in parts:
        for path, error in train_cells(cells, jobs=arguments.jobs):
            print(path, error or "trained", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if "attacks" in parts:
        for path, (row, _) in names.items():
            if is_complete(path, cells[path]) or row == "guard-stop":
                evaluate(path, arguments.images)
    if "table" in parts:
        table = pd.DataFrame([measured for path, (row, _) in names.items() if (measured := numbers(path, row))])
        table.to_csv(arguments.out / "guard.csv", index=False, float_format="%.5g")
        (arguments.out / "guard.md").write_text(markdown(table), encoding="utf-8")
        draw(table, names, arguments.out / "guard.png")
        about = {"command": "python analyses/guard.py", **StoredRun(next(iter(names))).environment}
        (arguments.out / "environment.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def settings_of(row: str, seed: int) -> Config:
    """The settings of a run."""
    _, method, settings, _ = ROWS[row]
    return configure("digits", method, {"seed": seed, "epsilon": EPSILON}, PROBE, settings)


def evaluate(path: Path, images: int) -> None:
    """Attack the last epoch: PGD-20 on all test images, AutoAttack on some; the run stores the tables."""
    co_probe.evaluate(path, ["clean", "pgd20"], epoch="last")
    co_probe.evaluate(path, ["clean", "aa"], epoch="last", images=images)
    print(path, "attacked", flush=True)


def numbers(path: Path, row: str) -> dict[str, object] | None:
    """Accuracies at the last epoch, the step of the switch, and the cost of a run; None if it is not measured yet."""
    try:
        run = StoredRun(path)
        found = run.frame("eval")
    except CoProbeError as error:
        print(f"{path}: left out, {error}")
        return None
    found = found[(found["quantity"] == "accuracy") & (found["epoch"] == run.last_epoch)].sort_values("n")
    value = found.drop_duplicates("attack", keep="last").set_index("attack")["value"]
    title, _, _, passes = ROWS[row]
    assert run.info.steps_per_epoch
    steps = run.last_epoch * run.info.steps_per_epoch
    switched = int(run.method_parameters(run.last_epoch).get("guard", {}).get("step", 0))
    after = steps - switched if switched else 0
    cost = (passes * (steps - after) + REMEDY_PASSES.get(row.removeprefix("guard-"), 0) * after) / steps
    return {
        "row": row,
        "title": title,
        "seed": run.config.seed,
        "epochs": run.last_epoch,
        "switched": switched or None,
        **{attack: value.get(attack) for attack in COLUMNS},
        "best": max(run.metrics(epoch)["pgd10"] for epoch in run.epochs),
        "passes": cost,
    }


def markdown(table: pd.DataFrame) -> str:
    """A line per row: means over seeds, and each seed's accuracy under PGD-20."""
    lines = [
        f"| training | seeds | switch at step | {' | '.join(COLUMNS.values())} | PGD-20, each seed | passes per step |",
        "|---" * (len(COLUMNS) + 5) + "|",
    ]
    for title, part in table.groupby("title", sort=False):
        accuracies = [f"{100 * part[attack].mean():.1f}%" if part[attack].notna().all() else "–" for attack in COLUMNS]
        switched = ", ".join("–" if pd.isna(step) else f"{step:.0f}" for step in part["switched"])
        each = ", ".join(f"{100 * value:.1f}" for value in part["pgd20"])
        ended = ", ".join(str(epoch) for epoch in part["epochs"] if epoch < table["epochs"].max())
        title = f"{title} (stopped after epoch {ended})" if ended else title
        lines.append(
            f"| {title} | {len(part)} | {switched if part['switched'].notna().any() else ''} "
            f"| {' | '.join(accuracies)} | {each} | {part['passes'].mean():.2f} |"
        )
    return "\n".join(lines) + "\n"


def draw(table: pd.DataFrame, names: dict[Path, tuple[str, int]], path: Path) -> None:
    """Robust accuracy over the epochs, a line per seed; and what a row ends with against what it costs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=(1.5, 1))
    shown = [row for row in ("fgsm", "guard-pgd2", "guard-n-fgsm", "pgd2") if row in set(table["row"])]
    colors = {row: f"C{place}" for place, row in enumerate(ROWS)}
    for folder, (row, seed) in names.items():
        if row not in shown or not ((table["row"] == row) & (table["seed"] == seed)).any():
            continue
        run = StoredRun(folder)
        curve = [100 * run.metrics(epoch)["pgd10"] for epoch in run.epochs]
        left.plot(run.epochs, curve, color=colors[row], lw=1.1, alpha=0.8, label=None if seed else ROWS[row][0])
        switched = run.method_parameters(run.last_epoch).get("guard", {}).get("step", 0)
        if switched and run.info.steps_per_epoch:
            at = int(switched // run.info.steps_per_epoch)
            left.plot(at, curve[max(at - 1, 0)], "v", color=colors[row], ms=6)
    left.set(xlabel="epoch", ylabel="accuracy under PGD-10 (%)", ylim=(0, None))
    left.legend(frameon=False, fontsize=8, title="a line per seed; ▾ the switch", title_fontsize=8)
    for row, part in table[table["epochs"] == table["epochs"].max()].groupby("row", sort=False):
        right.plot(part["passes"], 100 * part["pgd20"], "o", color=colors[str(row)], ms=5, alpha=0.7, mew=0)
        right.annotate(
            part["title"].iloc[0], (part["passes"].mean(), 100 * part["pgd20"].mean()),
            xytext=(6, 0), textcoords="offset points", fontsize=7, va="center",
        )  # fmt: skip
    right.set(xlabel="passes per step", ylabel="accuracy under PGD-20, last epoch (%)", xscale="log", ylim=(-3, None))
    right.set_xticks([2, 3, 5, 11], ["2", "3", "5", "11"], minor=False)
    right.minorticks_off()
    right.set_xlim(1.8, 22)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

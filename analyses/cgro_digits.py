"""Clean generalisation with robust overfitting on real images (arXiv 2306.01271), at laptop scale, by model width.

    python analyses/cgro_digits.py    trains the runs (or goes on with them) in sweeps/cgro-digits/, then renders

Into figures/cgro-digits/: accuracies of one run against epochs, accuracies of all after the last epoch against width,
the tidy table of these, and the machine and versions.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

import co_probe
from co_probe.plots.style import headless, save
from co_probe.reporting.drawing import draw
from co_probe.sweeps.grid import Grid
from co_probe.sweeps.sweep import train_cells

WIDTHS = (2, 4, 8, 16, 32)
SHOWN = 16  # the width whose accuracies are shown against epochs
SETTINGS = {
    "epsilon": 0.1,
    "epochs": 40,
    "batch_size": 25,
    "data": {"size": 8, "limit": 250},  # few images to learn from make overfitting visible at this scale
    "augmentation": {"padding": 0},
    "probe": {"test": 250, "train": 250},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("sweeps/cgro-digits"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "cgro-digits")
    parser.add_argument("--seeds", type=int, default=2, help="how many, from 0 [default: 2]")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time [default: 1]")
    arguments = parser.parse_args()

    seeds = tuple(range(arguments.seeds))
    grid = Grid(methods=("pgd",), seeds=seeds, settings=SETTINGS, vary={"model.width": WIDTHS})
    paths = list(grid.cells(arguments.runs))
    for path, error in train_cells(grid.cells(arguments.runs), jobs=arguments.jobs, device="cpu"):
        print(f"{path}: {error or 'done'}", flush=True)
    headless()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    runs = [co_probe.open_run(path) for path in paths]
    save(draw("capacity", runs, device="cpu"), out / "capacity.png")
    shown = next(run for run in runs if run.config.model.settings["width"] == SHOWN)
    save(draw("generalisation", [shown], device="cpu"), out / "generalisation.png")

    frames = [run.frame("memorisation").assign(width=run.config.model.settings["width"]) for run in runs]
    table = pd.concat(frames, ignore_index=True)
    table.to_csv(out / "memorisation.csv", index=False, float_format="%.6g")
    last = table[(table["quantity"] == "accuracy") & (table["epoch"] == runs[0].last_epoch)]
    print(last.pivot_table(index="width", columns=["view", "images"], values="value").to_string(float_format="%.3f"))
    environment = {"seeds": list(seeds), "command": "python analyses/cgro_digits.py", **shown.environment}
    (out / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")


if __name__ == "__main__":
    main()

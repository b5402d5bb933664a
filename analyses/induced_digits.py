"""Whether an injected feature moves the onset of catastrophic overfitting on digits (arXiv 2206.08242), in one command.

    python analyses/induced_digits.py      trains a grid of β × ε (or goes on with it) in induced-digits/, then renders

Into figures/induced-digits/: phase diagrams, what happens in some of the runs, the tables behind them, machine and
versions. Digits are resized to 24×24, which gives the carriers more room than the 16×16 of the preset. Some ten minutes
of one core.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

import co_probe
from co_probe.plots.style import headless, save
from co_probe.reporting.drawing import draw, table
from co_probe.runs import Run
from co_probe.studies.injection.settings import Inject
from co_probe.sweeps.grid import Grid
from co_probe.sweeps.sweep import is_complete, train_cells

BETAS = (0.0, 0.04, 0.08)
SETTINGS = {"epochs": 15, "data": {"size": 24}, "probe": {"test": 150, "train": 20}}
UNCLIPPED = SETTINGS | {"inject": {"clip": False}}
GRIDS = {
    "unclipped": Grid(methods=("fgsm",), epsilons=(0.12, 0.16, 0.2), vary={"inject.beta": BETAS}, settings=UNCLIPPED),
    # Clipping to [0, 1] takes half of the carrier from perturbed digits, whose background is 0.
    "clipped": Grid(methods=("fgsm",), epsilons=(0.16,), vary={"inject.beta": BETAS}, settings=SETTINGS),
}
CLOSE = 0.16  # ε of the unclipped runs that are looked into
PROBES = ("alignment", "curvature", "spectrum", "views")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("induced-digits"), help="folder of the runs [%(default)s]")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "induced-digits")
    parser.add_argument("--draw", action="store_true", help="train nothing more: draw the runs that are complete")
    parser.add_argument("--jobs", type=int, help="processes at a time [one a core]")
    arguments = parser.parse_args()

    cells = {name: grid.cells(arguments.runs / name) for name, grid in GRIDS.items()}
    for grid in () if arguments.draw else cells.values():
        for path, error in train_cells(grid, jobs=arguments.jobs, device="cpu"):
            print(f"{path}: {error or 'done'}", flush=True)
    headless()
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = {name: [Run(p) for p, config in grid.items() if is_complete(p, config)] for name, grid in cells.items()}
    for name in GRIDS:
        what = "clipped to [0, 1]" if name == "clipped" else "not clipped"
        if len(runs[name]) > 1:
            save(draw("induced", runs[name], title=f"digits 24×24, x + δ {what}"), arguments.out / f"phases-{name}.png")
    close = [run for run in runs["unclipped"] if run.epsilon == CLOSE]
    for run in close:
        beta = f"{run.config.extension(Inject).beta:g}"
        for kind in ("induced", "spectrum"):
            title = f"digits 24×24, ε = {run.epsilon:g}, β = {beta}, x + δ not clipped"
            save(draw(kind, [run], title=title), arguments.out / f"{kind}-beta{beta}.png")
    for name in PROBES:
        fit = [run for run in close if name != "views" or run.config.extension(Inject).beta]
        frame = co_probe.probe(name, fit, device="cpu")
        _write(frame[frame["quantity"] != "energy"], arguments.out / f"{name}.csv")  # 576 numbers an epoch are too many
    frames = [table("induced", "cells", runs[name]).assign(clipped=name == "clipped") for name in GRIDS if runs[name]]
    _write(pd.concat(frames), arguments.out / "cells.csv")
    _write(pd.concat([run.frame("metrics") for run in runs["unclipped"]]), arguments.out / "metrics.csv")
    first = runs["unclipped"][0]
    environment = {"seed": first.config.seed, "command": "python analyses/induced_digits.py", **first.environment}
    (arguments.out / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")


def _write(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()

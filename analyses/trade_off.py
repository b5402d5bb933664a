"""Figure 4 of arXiv 2010.08034 at laptop scale: clean accuracy against accuracy under PGD-20, over several ε.

    python analyses/trade_off.py          into figures/digits/trade-off.png
    python analyses/trade_off.py --preset cifar10 --epsilons 2/255,4/255,8/255,12/255 --out figures/cifar10    on a GPU

Runs are kept in sweeps/trade-off-PRESET, and what is there already is not trained again.
"""

import argparse
import os
from pathlib import Path

import co_probe
from co_probe.config import parse_number
from co_probe.plots.style import headless, save
from co_probe.sweeps.grid import Grid
from co_probe.sweeps.sweep import train_cells

METHODS = ("fgsm", "n-fgsm", "apart", "pgd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--epsilons", default="0.07,0.13,0.19")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path, help="folder of the figure [default: figures/PRESET]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes [default: one a core]")
    arguments = parser.parse_args()
    out = arguments.out or Path(__file__).parents[1] / "figures" / arguments.preset
    folder = Path("sweeps") / f"trade-off-{arguments.preset}"
    grid = Grid(
        methods=METHODS,
        epsilons=tuple(map(parse_number, arguments.epsilons.split(","))),
        seeds=tuple(map(int, arguments.seeds.split(","))),
        preset=arguments.preset,
        # The paper trains on all images.
        settings={"probe": {"validation": 0} | ({"test": 200} if arguments.preset == "digits" else {})},
    )
    runs = []
    for path, error in train_cells(grid.cells(folder), jobs=arguments.jobs):
        print(path, error or "trained", flush=True)
        runs += [] if error else [co_probe.open_run(path)]
    runs.sort(key=lambda run: run.name)
    headless()
    out.mkdir(parents=True, exist_ok=True)
    save(co_probe.draw("trade-off", runs), out / "trade-off.png")
    table = co_probe.evaluate(runs, ["clean", "pgd20"])  # stored by now
    table.to_csv(out / "trade-off.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()

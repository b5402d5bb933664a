"""The (β, ε) phase diagram of arXiv 2206.08242 on CIFAR-10, in one command; made for a GPU.

    python analyses/induced_cifar10.py                                      CIFAR-10, downloaded if need be
    python analyses/induced_cifar10.py --data cifar10-jpeg                  a folder with train/<class> and test/<class>
    python analyses/induced_cifar10.py --methods fgsm,n-fgsm,pgd,grad-align
    python analyses/induced_cifar10.py --preset cifar10-small --epsilons 8,12 --betas 0,8,12 --out FOLDER

Trains β ∈ {0, 4, 6, 8, 10}/255 × ε ∈ {2, 4, 6, 8}/255 with the preset cifar10-30, a run at a time, beginning with
the cell where FGSM collapses in the paper (β = 8/255, ε = 6/255) and its neighbours. It may be stopped at any time and
goes on when it is called again; --draw renders finished runs, into figures/induced-cifar10/. Evaluated under PGD-50
with 10 restarts.
"""

import argparse
import json
from pathlib import Path

import co_probe
from co_probe.cli.output import print_table
from co_probe.config import Config
from co_probe.config.labels import epsilon_label
from co_probe.plots.style import headless, save
from co_probe.reporting.drawing import draw, table
from co_probe.runs import Run
from co_probe.studies.injection.settings import Inject
from co_probe.sweeps.grid import Grid, split
from co_probe.sweeps.sweep import is_complete, train_cells

FIRST = (8 / 255, 6 / 255)  # β, ε
ATTACK = "pgd50x10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of images [CIFAR-10 itself]")
    parser.add_argument("--title", help="what figures call the data [CIFAR-10, or the folder's name]")
    parser.add_argument("--methods", default="fgsm", help="[%(default)s]")
    parser.add_argument("--runs", type=Path, default=Path("induced-cifar10"), help="folder of the runs [%(default)s]")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "induced-cifar10")
    parser.add_argument("--draw", action="store_true", help="train nothing more")
    parser.add_argument("--images", type=int, default=1000, help="test images under PGD-50×10 [%(default)s]")
    parser.add_argument("--preset", default="cifar10-30", help="[%(default)s]")
    parser.add_argument("--betas", default="0,4,6,8,10", help="in grey levels [%(default)s]")
    parser.add_argument("--epsilons", default="2,4,6,8", help="in grey levels [%(default)s]")
    parser.add_argument("--epochs", type=int, help="[the preset's]")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time [%(default)s]")
    parser.add_argument("--limit", type=int, help="training images [all]")
    parser.add_argument("--small", action="store_true", help="a network of a few thousand weights, to try this script")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    cells = _cells(arguments)
    if not arguments.draw:
        for path, error in train_cells(cells, device=arguments.device, jobs=arguments.jobs):
            print(f"{path}: {error or 'done'}", flush=True)
    runs = [Run(path) for path, config in cells.items() if is_complete(path, config)]
    if not runs:
        raise SystemExit(f"no run in {arguments.runs} is complete yet")
    headless()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for run in runs:
        co_probe.evaluate(run, [ATTACK], epoch="last", images=arguments.images, device=arguments.device)
    measured = table("induced", "cells", runs, against=ATTACK, device=arguments.device)
    measured.to_csv(arguments.out / "cells.csv", index=False, float_format="%.6g")
    if len(runs) > 1:
        save(draw("induced", runs, against=ATTACK, device=arguments.device), arguments.out / "phases.png")
    first = [run for run in runs if (run.config.extension(Inject).beta, run.epsilon) == FIRST]
    for run in first:
        for kind in ("induced", "spectrum"):
            title = f"{run.config.data_title}, {run.config.method_title}, ε = 6/255, β = 8/255"
            figure = draw(kind, [run], title=title, device=arguments.device)
            save(figure, arguments.out / f"{kind}-{run.config.method_title}.png")
    about = {"command": "python analyses/induced_cifar10.py", "data": runs[0].config.data_title, "runs": len(runs)}
    about |= {"images": arguments.images, "seed": runs[0].config.seed, **runs[0].environment}
    (arguments.out / "environment.json").write_text(json.dumps(about, indent=1) + "\n")
    rows = [
        [str(row.method), *map(epsilon_label, (row.beta, row.epsilon)), f"{row.value:.1%}", str(row.onset or "none")]
        for row in measured.itertuples()
    ]
    print_table(f"{len(runs)} of {len(cells)} runs", ["method", "β", "ε", "PGD-50×10", "onset"], rows)


def level(text: str) -> float:
    """A number of grey levels, in pixel units."""
    return float(text) / 255


def _cells(arguments: argparse.Namespace) -> dict[Path, Config]:
    """The runs, the nearest to the paper's collapse first."""
    data: dict[str, object] = {"name": "cifar10", "title": arguments.title or "CIFAR-10"}
    if arguments.data:
        data = {"name": f"image-folder:{arguments.data}", "title": arguments.title or arguments.data.name}
    if arguments.limit:
        data["limit"] = arguments.limit
    settings: dict[str, object] = {"data": data, "probe": {"validation": 0}}  # the paper trains on all images
    if arguments.epochs:
        settings["epochs"] = arguments.epochs
    if arguments.small:
        settings["model"] = {"name": "preact_resnet", "width": 8, "blocks": [1, 1]}
    grid = Grid(
        methods=split(arguments.methods, str),
        epsilons=split(arguments.epsilons, level),
        vary={"inject.beta": split(arguments.betas, level)},
        preset=arguments.preset,
        settings=settings,
    )

    def distance(config: Config) -> float:
        beta = config.extension(Inject).beta or FIRST[0]  # without a carrier, like the cell it is compared with
        return abs(beta - FIRST[0]) + abs(config.epsilon - FIRST[1])

    return dict(sorted(grid.cells(arguments.runs).items(), key=lambda cell: distance(cell[1])))


if __name__ == "__main__":
    main()

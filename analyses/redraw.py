"""Draw committed figures again from the tables beside them, without their runs.

    python analyses/redraw.py                  all figures below, a few seconds
    python analyses/redraw.py digits           those of one folder

Figures that need more than a table (perturbations, spectra, the trade-off, traces of steps) are drawn by the scripts
that train.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from co_probe.diagnosis import verdict
from co_probe.plots.lines import mark_switches
from co_probe.plots.spec import Frames, Span
from co_probe.plots.style import headless, paper_style, save
from co_probe.reporting.drawing import figure_spec

FIGURES = Path(__file__).parents[1] / "figures"
SMALL = ("fgsm", "apart-simple", "apart", "pgd")
Drawn = Iterator[tuple[str, Figure]]


def episodes_of(metrics: pd.DataFrame) -> dict[str, list[Span]]:
    """Return the episodes of each run in a table `metrics`, as first and last epoch."""
    found = {}
    for run, rows in metrics.groupby("run"):
        wide = rows.pivot(index="epoch", columns="quantity", values="value")
        images = int(rows.loc[rows["quantity"] == "pgd10", "n"].iloc[0])
        judged = verdict(wide["clean"], wide["fgsm"], wide["pgd10"], wide.index, images, train=wide["train_accuracy"])
        if judged.episodes:
            found[str(run)] = [(each.start, each.end or int(wide.index[-1])) for each in judged.episodes]
    return found


def draw(kind: str, frames: Frames, episodes: Mapping[str, list[Span]], title: str) -> Figure:
    """Draw a registered figure from its tables."""
    figure = figure_spec(kind).draw(frames, episodes)
    figure.suptitle(title, fontsize=8)
    return figure


def cifar10(folder: Path) -> Drawn:
    """Figures at the paper's scale: four methods, then FGSM with and without a guard."""
    frames = {name: pd.read_csv(folder / f"{name}.csv") for name in ("metrics", "gap", "strength", "steps")}
    title = "CIFAR-10 (JPEG), ε = 8/255\npreact_resnet18, 30 epochs, bfloat16"
    episodes, metrics = episodes_of(frames["metrics"]), frames["metrics"]
    step = metrics.loc[metrics["quantity"] == "guard_step", "value"].max()
    for part, runs, switches in (("main", SMALL, {}), ("guard", ("fgsm", "fgsm-guard"), {"fgsm-guard": step / 391})):
        some = {name: frame[frame["run"].isin(runs)] for name, frame in frames.items()}
        gaps = {against: some["gap"][some["gap"]["against"] == against] for against in ("pgd10", "pgd20")}
        drawn = {f"gap-{name}": draw("gap", {"gap": frame}, episodes, title) for name, frame in gaps.items()}
        drawn["deterioration"] = draw("deterioration", some | {"gap": gaps["pgd10"]}, episodes, title)
        for name, figure in drawn.items():
            mark_switches(figure, switches)
            yield f"{part}-{name}", figure
    yield "main-steps", draw("steps", frames, episodes, title)
    steps = pd.read_csv(folder / "step-indicators.csv.gz")
    tables = {
        "metrics": metrics[metrics["run"] == "fgsm"],
        "steps": steps[steps["run"] == "fgsm"],
        "epochs": pd.concat(
            [gaps_of("fgsm", frames["gap"]), frames["strength"].query("run == 'fgsm' and quantity == 'strength'")]
        ),
    }
    yield "main-indicators", draw("indicators", tables, {"fgsm": episodes["fgsm"]}, title)


def gaps_of(run: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one run that hold the gap to PGD-10."""
    return frame[(frame["run"] == run) & (frame["against"] == "pgd10") & (frame["quantity"] == "gap")]


def digits(folder: Path) -> Drawn:
    """Figures of the demo."""
    frames = {name: pd.read_csv(folder / f"{name}.csv") for name in ("metrics", "gap", "strength", "steps")}
    episodes = episodes_of(frames["metrics"])
    for kind in ("gap", "deterioration", "robust-overfitting", "steps"):
        yield kind, draw(kind, frames, episodes, "digits, ε = 0.15")


def cifar10_small(folder: Path) -> Drawn:
    """Figures of the four runs that were trained longest."""
    frames = {name: pd.read_csv(folder / f"{name}.csv") for name in ("metrics", "gap", "strength", "steps")}
    frames = {name: frame[frame["run"].isin(SMALL)] for name, frame in frames.items()}
    title = "CIFAR-10 (JPEG), width 16\nε = 16/255, seed 0"
    episodes = episodes_of(frames["metrics"])
    for against in ("pgd10", "pgd20"):
        gaps = frames["gap"][frames["gap"]["against"] == against]
        yield f"main-gap-{against}", draw("gap", {"gap": gaps}, episodes, title)
        if against == "pgd10":
            yield "main-deterioration", draw("deterioration", frames | {"gap": gaps}, episodes, title)
        else:
            shown = {
                name: frame[frame["run"].isin(("apart", "pgd"))] for name, frame in (frames | {"gap": gaps}).items()
            }
            yield "main-robust-overfitting", draw("robust-overfitting", shown, episodes, title)
    yield "main-steps", draw("steps", frames, episodes, title)


def induced_digits(folder: Path) -> Drawn:
    """Phase diagrams over β and ε, and what happens in three of the runs."""
    cells, metrics = pd.read_csv(folder / "cells.csv"), pd.read_csv(folder / "metrics.csv")
    empty = {"inside": pd.DataFrame(), "metrics": metrics}
    for clipped, rows in cells.groupby("clipped"):
        fallen = {run: [(1, 1)] for run in rows.loc[rows["onset"] > 0, "run"]}
        name, words = ("clipped", "clipped to [0, 1]") if clipped else ("unclipped", "not clipped")
        yield f"phases-{name}", draw("induced", {"cells": rows} | empty, fallen, f"digits 24×24, x + δ {words}")
    inside = pd.concat([pd.read_csv(folder / f"{name}.csv") for name in ("curvature", "views")])
    episodes = episodes_of(metrics)
    for beta in (0, 0.04, 0.08):
        run = f"fgsm-eps0.16-beta{beta}-seed0"
        frames = {"cells": cells[(cells["run"] == run) & ~cells["clipped"]]}
        frames |= {name: frame[frame["run"] == run] for name, frame in (("inside", inside), ("metrics", metrics))}
        title = f"digits 24×24, ε = 0.16, β = {beta}, x + δ not clipped"
        yield f"induced-beta{beta}", draw("induced", frames, episodes, title)


def cgro_patches(folder: Path) -> Drawn:
    """The phases of robust memorisation."""
    frame = pd.read_csv(folder / "memorisation.csv", keep_default_na=False)
    frame = frame.assign(value=pd.to_numeric(frame["value"]), low=_number(frame["low"]), high=_number(frame["high"]))
    yield "phases", draw("phases", {"memorisation": frame}, {}, "patches, L2 ε = 9.4")


def cgro_digits(folder: Path) -> Drawn:
    """Accuracies against the width of the network, and against epochs."""
    frame = pd.read_csv(folder / "memorisation.csv")
    last = frame[frame["epoch"] == frame["epoch"].max()]
    yield "capacity", draw("capacity", {"capacity": last}, {}, "digits, ε = 0.1")
    one = frame[frame["run"] == "pgd-eps0.1-seed0-width16"]
    yield "generalisation", draw("generalisation", {"memorisation": one}, {}, "digits, ε = 0.1")


def _number(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values, errors="coerce")


FOLDERS: dict[str, Callable[[Path], Drawn]] = {
    "cifar10-jpeg": cifar10,
    "digits": digits,
    "cifar10-jpeg-small": cifar10_small,
    "induced-digits": induced_digits,
    "cgro-patches": cgro_patches,
    "cgro-digits": cgro_digits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", help=f"{', '.join(FOLDERS)} [default: all]")
    parser.add_argument("--out", type=Path, default=FIGURES, help="where the folders are written [default: figures]")
    arguments = parser.parse_args()
    headless()
    with paper_style():
        for name in arguments.folders or FOLDERS:
            (arguments.out / name).mkdir(parents=True, exist_ok=True)
            for figure, drawing in FOLDERS[name](FIGURES / name):
                save(drawing, arguments.out / name / f"{figure}.png")


if __name__ == "__main__":
    main()

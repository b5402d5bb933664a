"""Robust memorisation on made-up data (arXiv 2306.01271): its three phases, and when the signal wins instead.

    python analyses/cgro_patches.py    trains the runs (or goes on with them) in sweeps/cgro-patches/, then renders

Into figures/cgro-patches/: the phases of the preset's run and the table they are drawn from; `runs.csv`, what every run
ends with; and the machine and versions.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

import co_probe
from co_probe.config import Config
from co_probe.config.presets import configure
from co_probe.plots.style import headless, save
from co_probe.reporting.drawing import draw
from co_probe.studies.memorisation.phases_figure import boundaries
from co_probe.sweeps.sweep import train_cells

SEEDS = range(10)
EPSILONS = (9.0, 9.2, 9.5, 9.6, 9.8)  # besides the preset's 9.4, of a signal of 10
SHIFTED = ((6.0, 5.4), (2.0, 1.4))  # other signals α with the preset's α − ε, and so with its training
SHORT = {"method": {"replays": 500}}  # optimizer steps from one kept epoch to the next, where only the end counts


def cells(folder: Path) -> dict[Path, Config]:
    """The settings of all runs: the preset, then other seeds, other ε, and other signals with as much left of them."""
    named = {"preset": configure("patches", "shrink")}
    for seed in SEEDS:
        named[f"seed{seed}"] = configure("patches", "shrink", SHORT, {"seed": seed})
    for epsilon in EPSILONS:
        named[f"eps{epsilon}"] = configure("patches", "shrink", SHORT, {"epsilon": epsilon})
    for alpha, epsilon in SHIFTED:
        settings = {"epsilon": epsilon, "data": {"alpha": alpha}}
        named[f"alpha{alpha:g}-eps{epsilon}"] = configure("patches", "shrink", SHORT, settings)
    return {folder / name: config for name, config in named.items()}


def ending(path: Path) -> dict[str, object]:
    """What a run ends with: its settings, components and accuracies, and where its phases begin."""
    run = co_probe.open_run(path)
    frame = co_probe.memorisation(run, device="cpu")
    last = frame[frame["epoch"] == run.last_epoch]
    signal = last[last["quantity"] == "signal"].iloc[0]
    accuracy = last[last["quantity"] == "accuracy"].set_index(["view", "images"])["value"]
    begins = boundaries(frame)
    clean = frame.query("quantity == 'accuracy' and view == 'clean' and images == 'test'")
    return {
        "run": run.name,
        "seed": run.config.seed,
        "alpha": run.config.data.settings["alpha"],
        "epsilon": run.epsilon,
        "signal_least": signal["low"],
        "signal_greatest": signal["high"],
        "noise": last.loc[last["quantity"] == "noise", "value"].iloc[0],
        **{f"{view}_{images}": accuracy[view, images] for view in ("clean", "robust") for images in ("train", "test")},
        "best_clean_test": clean["value"].max(),
        "memorised": bool(begins),
        "phase_2": begins[0] if begins else None,
        "phase_3": begins[1] if begins else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("sweeps/cgro-patches"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "cgro-patches")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time [default: 1]")
    arguments = parser.parse_args()

    wanted = cells(arguments.runs)
    for path, error in train_cells(wanted, jobs=arguments.jobs, device="cpu"):
        print(f"{path}: {error or 'done'}", flush=True)
    headless()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([ending(path) for path in wanted])
    table.to_csv(out / "runs.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False))

    run = co_probe.open_run(arguments.runs / "preset")
    save(draw("phases", [run], device="cpu"), out / "phases.png")
    frame = run.frame("memorisation")
    frame.to_csv(out / "memorisation.csv", index=False, float_format="%.6g")
    environment = {"seed": run.config.seed, "command": "python analyses/cgro_patches.py", **run.environment}
    (out / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")


if __name__ == "__main__":
    main()

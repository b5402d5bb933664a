"""Does what the demo shows depend on the seed? Its four methods on ten seeds, into figures/digits/seeds.md.

    python analyses/seeds.py             trains 40 runs in sweeps/seeds (about an hour on two idle cores), or goes on
    python analyses/seeds.py --seeds 3   fewer
    python analyses/seeds.py --table     the table of the runs that are complete; trains nothing

A run is what `co-probe demo` trains: the preset digits, measured on 200 test images after each epoch. Beside the table:
the tidy metrics that it was made from, and the machine and versions.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

import co_probe
from co_probe.config.presets import configure
from co_probe.diagnosis.stored import verdict_of
from co_probe.store import StoredRun
from co_probe.sweeps.sweep import is_complete

METHODS = ("fgsm", "apart-simple", "apart", "pgd")
PROBE = {"probe": {"test": 200, "train": 200, "validation": 0}}
CLIMBS, COLLAPSED, ROBUST = 0.40, 0.12, 0.50  # accuracies that the last lines count by


def main() -> None:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds, from 0 [default: 10]")
    parser.add_argument(
        "--runs", type=Path, default=Path("sweeps/seeds"), help="folder of the runs [default: %(default)s]"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "digits")
    parser.add_argument("--table", action="store_true", help="write the table of the complete runs, train nothing")
    parser.add_argument("--jobs", type=int, help="processes [default: one for each core]")
    arguments = parser.parse_args()
    cells = {
        arguments.runs / f"{method}-seed{seed}": configure("digits", method, {"seed": seed}, PROBE)
        for seed in range(arguments.seeds)
        for method in METHODS
    }
    if not arguments.table:
        co_probe.sweep(cells, jobs=arguments.jobs, progress=True)
    cells = {path: config for path, config in cells.items() if is_complete(path, config)}
    table = pd.DataFrame([row(StoredRun(path)) for path in cells])
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "seeds.csv", index=False, float_format="%.4g")
    (arguments.out / "seeds.md").write_text(markdown(table), encoding="utf-8")
    about = {"command": "python analyses/seeds.py", **StoredRun(next(iter(cells))).environment}
    (arguments.out / "seeds.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def row(run: StoredRun) -> dict[str, object]:
    """The numbers of one run: accuracy under PGD-10 at its best and at the end, the gap at the end, the onset."""
    pgd, found = [run.metrics(epoch)["pgd10"] for epoch in run.epochs], verdict_of(run)
    return {
        "method": run.config.method.name,
        "seed": run.config.seed,
        "best": max(pgd),
        "best_epoch": run.epochs[pgd.index(max(pgd))],
        "last": pgd[-1],
        "gap": run.metrics(run.last_epoch)["gap"],
        "verdict": found.kind,
        "onset": found.onset,
        "best_before_onset": max(pgd[: found.onset - 1], default=pgd[0]) if found.onset else max(pgd),
    }


def markdown(table: pd.DataFrame) -> str:
    """A line for each seed, a block of columns for each method, and how many seeds show what."""
    lines = [
        "# The demo on ten seeds"
        if table["seed"].nunique() == 10
        else f"# The demo on {table['seed'].nunique()} seeds",
        "",
        "Digits, ε = 0.15 with a warm-up over 10 of 30 epochs, 200 test images: accuracy under PGD-10 in percent.",
        "Of FGSM the best before the onset, the end, and the onset (first epoch of the first episode); of the others",
        "the end, with the gap from FGSM to PGD-10 in nats. Written by `python analyses/seeds.py`.",
        "",
        "| seed | FGSM: best | end | onset | APART-Simple (gap) | APART (gap) | PGD-10 (gap) |",
        "|---|---|---|---|---|---|---|",
    ]
    by_method = {method: table[table["method"] == method].set_index("seed") for method in METHODS}
    fgsm = by_method["fgsm"]
    for seed, values in fgsm.iterrows():
        cells = [_end(by_method[method], seed) for method in METHODS[1:]]
        onset = "none" if pd.isna(values["onset"]) else f"{values['onset']:.0f}"
        best, last = 100 * values["best_before_onset"], 100 * values["last"]
        lines.append(f"| {seed} | {best:.1f} | {last:.1f} | {onset} | {' | '.join(cells)} |")
    count = len(fgsm)
    climbs = fgsm["best_before_onset"] >= CLIMBS
    collapses = (fgsm["last"] <= COLLAPSED) & fgsm["onset"].notna()
    lines += [
        "",
        f"- FGSM climbs to {CLIMBS:.0%} or more on {climbs.sum()} of {count} seeds, ends at {COLLAPSED:.0%} or less "
        f"with an onset on {collapses.sum()}, and does both on {(climbs & collapses).sum()}.",
    ]
    for method in METHODS[1:]:
        ends = by_method[method]["last"]
        lines.append(
            f"- {method} ends at {ROBUST:.0%} or more on {(ends >= ROBUST).sum()} of {len(ends)} seeds: "
            f"{100 * ends.mean():.1f} ± {100 * ends.std():.1f}% (mean and standard deviation over seeds)."
        )
    return "\n".join(lines) + "\n"


def _end(table: pd.DataFrame, seed: object) -> str:
    """Accuracy and gap of a seed at the end; a dash where the run is not complete."""
    if seed not in table.index:
        return "–"
    return f"{100 * table.loc[seed, 'last']:.1f} ({table.loc[seed, 'gap']:.2f})"


if __name__ == "__main__":
    main()

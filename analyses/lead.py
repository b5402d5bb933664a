"""Which step indicator announces a collapse, and how early: `co-probe plot lead` on digits, into figures/lead/.

    python analyses/lead.py             trains 15 runs of the preset digits in sweeps/lead, or goes on, and draws
    python analyses/lead.py --draw      draws the runs that are complete; trains nothing

FGSM on six seeds collapses; FGSM at a third of ε, N-FGSM and APART, on three seeds each, do not.
"""

import argparse
import json
from pathlib import Path

import co_probe
from co_probe.config.presets import configure
from co_probe.diagnosis.lead import lead
from co_probe.store import StoredRun
from co_probe.sweeps.sweep import is_complete

PROBE = {"probe": {"test": 100, "train": 50, "validation": 0}}
GROUPS = {  # name -> (method, settings, number of seeds)
    "fgsm": ("fgsm", {}, 6),
    "fgsm-small": ("fgsm", {"epsilon": 0.05}, 3),
    "n-fgsm": ("n-fgsm", {}, 3),
    "apart": ("apart", {}, 3),
}


def main() -> None:
    """Train missing runs, then write the figure, its table and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("sweeps/lead"), help="[default: %(default)s]")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "lead")
    parser.add_argument("--draw", action="store_true", help="draw the complete runs, train nothing")
    parser.add_argument("--jobs", type=int, help="processes [default: one for each core]")
    arguments = parser.parse_args()
    cells = {
        arguments.runs / f"{name}-seed{seed}": configure("digits", method, {"seed": seed}, PROBE, settings)
        for name, (method, settings, seeds) in GROUPS.items()
        for seed in range(seeds)
    }
    if not arguments.draw:
        co_probe.sweep(cells, jobs=arguments.jobs, progress=True)
    runs = [path for path, config in cells.items() if is_complete(path, config)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    co_probe.draw("lead", runs).savefig(arguments.out / "lead.png", dpi=150)
    table = lead([StoredRun(path) for path in runs])
    table.to_csv(arguments.out / "lead.csv", index=False, float_format="%.5g")
    (arguments.out / "lead.md").write_text(markdown(table), encoding="utf-8")
    about = {"command": "python analyses/lead.py", **StoredRun(runs[0]).environment}
    (arguments.out / "environment.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def markdown(table) -> str:
    """A line per indicator: leads, false alarms and precision at recall 1."""
    lines = ["| indicator | baseline | lead in steps: median (all) | false alarms | precision |", "|---" * 5 + "|"]
    order = table.groupby("label")[["precision", "lead"]].median().sort_values(["precision", "lead"], ascending=False)
    for label in order.index:
        rows = table[table["label"] == label]
        leads = sorted(int(value) for value in rows["lead"].dropna())
        told = f"{rows['lead'].median():.0f} ({', '.join(map(str, leads))})"
        baseline = "yes" if rows["baseline"].iloc[0] else ""
        false, precision = int(rows["false_alarms"].sum()), rows["precision"].iloc[0]
        lines.append(f"| {label} | {baseline} | {told} | {false} | {100 * precision:.0f}% |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

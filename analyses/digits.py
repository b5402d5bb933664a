"""Figures 1 to 3 and 5 of arXiv 2010.08034 at laptop scale: what `co-probe demo` shows, into figures/digits/.

    python analyses/digits.py            trains the four runs of the demo (or goes on with them) in demo/, then renders
    python analyses/digits.py --seed 1   another seed, into figures/digits-seed1/

Beside the figures: the tidy tables they were drawn from, the demo's summary, and the machine and versions.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from co_probe.store import StoredRun

METHODS = ("fgsm", "apart-simple", "apart", "pgd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="[default: the preset's]")
    parser.add_argument("--demo", type=Path, help="folder of the demo [default: demo, or demo-seedN]")
    parser.add_argument("--out", type=Path, help="folder of the figures [default: figures/digits, or with -seedN]")
    arguments = parser.parse_args()
    suffix = "" if arguments.seed is None else f"-seed{arguments.seed}"
    demo = arguments.demo or Path(f"demo{suffix}")
    out = arguments.out or Path(__file__).parents[1] / "figures" / f"digits{suffix}"

    command = [sys.executable, "-m", "co_probe", "demo", "--out", str(demo), "--csv"]
    command += [] if arguments.seed is None else ["--seed", str(arguments.seed)]
    summary = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.csv").write_text(summary)
    for figure in sorted((demo / "figures").glob("*.png")):
        shutil.copy(figure, out)
    runs = [StoredRun(demo / "runs" / method) for method in METHODS]
    for name in ("metrics", "gap", "strength", "steps"):
        frame = pd.concat([run.frame(name) for run in runs], ignore_index=True)
        frame.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
    environment = {"seed": runs[0].config.seed, "command": "python analyses/digits.py", **runs[0].environment}
    (out / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")


if __name__ == "__main__":
    main()

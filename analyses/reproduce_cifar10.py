"""Figures 1 to 3 and 5 of arXiv 2010.08034 on CIFAR-10-sized data, as one script that works in pieces.

    until python analyses/reproduce_cifar10.py --data cifar10-jpeg --minutes 9; do test $? -eq 3 || break; done

trains, measures and draws for at most so many minutes (9 if not given), and goes on where it stopped when it is called
again: exit code 3 if there is more to do, 0 when all is done. In order (`--parts`):

    main        fgsm, apart-simple, apart, pgd for 30 epochs; strength against the last PGD-10 model, gap to PGD-10, -20
    guard       fgsm with a guard that goes on with two steps of ε/2 when the alarm fires
    more        the same of fgsm-rs and n-fgsm
    long        pgd and apart for 200 epochs: Figure 5
    seeds       the runs of `main` with seeds 1 and 2
    autoattack  the last models of `main` and `more` under the attacks of Table 2, and under AutoAttack

All runs of the parts asked for are trained first, `--jobs` at a time. With `--scale small` the runs are those of the
preset cifar10-small on all 50,000 images (width 16, ε = 16/255, 24 epochs), where FGSM collapses within 9,000 updates:
Figure 5 shows the runs of `main`, and `seeds` trains fgsm and apart only.

`--data` is a folder as co-probe's image-folder takes it, of 32×32 images; here CIFAR-10 re-encoded as JPEG, and all
titles say so. Runs, with their weights, stay in `--runs`; figures, tidy tables, commands, machine and versions go to
`--out`, a few MB. With `--limit`, `--width` or `--epochs` it is a trial of the script, and its output is so named.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from co_probe.config import Config
from co_probe.config.labels import epsilon_label
from co_probe.config.presets import configure
from co_probe.diagnosis import verdict_of
from co_probe.errors import CoProbeError
from co_probe.plots.style import headless, save
from co_probe.probes.eval import evaluate
from co_probe.probes.gap import gap
from co_probe.probes.strength import strength
from co_probe.reporting.drawing import draw
from co_probe.runs import Run
from co_probe.runs.build import pick_device
from co_probe.runs.checkpoints import export
from co_probe.store import StoredRun
from co_probe.sweeps.sweep import is_complete
from co_probe.training.loop import epochs

TITLE = "CIFAR-10 (JPEG)"
IMAGES = 50_000  # of training: all
MAIN = ("fgsm", "apart-simple", "apart", "pgd")
MORE = ("fgsm-rs", "n-fgsm")
# Runs of `main` that figures of other parts show too; of `seeds`, those that have several.
BESIDE: dict[str, tuple[str, ...]] = {"guard": ("fgsm",), "more": MAIN, "seeds": ()}
# Methods of a figure, if not all.
SHOWN = {"steps": ("apart-simple", "apart"), "robust-overfitting": ("pgd", "apart"), "indicators": ("fgsm",)}


@dataclass(frozen=True)
class Scale:
    """The settings of the runs.

    Attributes:
        preset: Of the runs of all parts but `long`.
        long: Methods of `long`, trained by the preset cifar10-200; without any, Figure 5 shows runs of `main`.
        seeds: Methods of `seeds`.
        folder: Name of the default folders of runs and figures.
        size: What titles say of the scale.
    """

    preset: str
    long: tuple[str, ...]
    seeds: tuple[str, ...]
    folder: str
    size: str = ""


SCALES = {
    "full": Scale("cifar10-30", ("pgd", "apart"), MAIN, "cifar10-jpeg"),
    "small": Scale("cifar10-small", (), ("fgsm", "apart"), "cifar10-jpeg-small", ", width 16"),
}
AGAINST = ("pgd10", "pgd20")
ATTACKS = ("clean", "gaussian", "pgd20", "cw")  # on all test images; AutoAttack on some
PARTS = ("main", "guard", "more", "long", "seeds", "autoattack")
FIGURES = 60.0  # seconds that are left for figures and tables at the end of a piece
MORE_TO_DO = 3  # exit code


class OutOfTime(Exception):
    """The minutes of this piece are over."""


class Clock:
    """Raises OutOfTime where work would go on past the minutes given, less what figures and tables take."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + max(0.0, 60 * minutes - FIGURES)

    def check(self, *_: object, needed: float = 0.0) -> None:
        """To be called between two batches; or with the seconds `needed` for what is to come."""
        if time.monotonic() + needed > self.end:
            raise OutOfTime


class Reproduction:
    """The runs, in their folder, and what is made of them."""

    def __init__(self, asked: argparse.Namespace):
        self.asked, self.scale, self.clock = asked, SCALES[asked.scale], Clock(asked.minutes)
        self.runs, self.out = asked.runs, asked.out
        # Of training and of probes.
        self.how: dict[str, Any] = {"device": asked.device, "compile": asked.compile, "progress": self.clock.check}
        changes = {"--limit": asked.limit, "--width": asked.width, "--epochs": asked.epochs}
        trial = ", ".join(f"{name[2:]} {value}" for name, value in changes.items() if value is not None)
        self.trial = f"TRIAL, NO RESULT ({trial})" if trial else ""
        self.title = f"{self.trial}: {TITLE}" if trial else TITLE

    # -- which runs there are ----------------------------------------------------------------------------------------

    def config(self, method: str, preset: str | None = None, seed: int = 0) -> Config:
        """The preset's settings, on the images of `--data`, and for a trial made small."""
        asked, preset = self.asked, preset or self.scale.preset
        data: dict[str, Any] = {"name": f"image-folder:{asked.data}", "title": self.title, "limit": IMAGES}
        changes: dict[str, Any] = {"seed": seed, "data": data, "precision": asked.precision}
        changes["probe"] = {"validation": 0}  # the paper trains on all images
        if asked.limit is not None:
            data["limit"] = asked.limit
            changes["probe"]["test"] = min(asked.limit, 1000)
        if asked.width is not None:
            changes["model"] = {"name": "preact_resnet", "width": asked.width, "blocks": [1, 1]}
        if method == "pgd" and preset == self.scale.preset and asked.pgd_epochs is not None:
            longer = configure(preset, method)
            warmup = longer.epsilon_warmup * asked.pgd_epochs // longer.epochs
            changes |= {"epochs": asked.pgd_epochs, "epsilon_warmup": warmup}
        if asked.epochs is not None:
            changes["epochs"] = asked.epochs * (2 if preset == "cifar10-200" else 1)
            changes["epsilon_warmup"] = 0
        return configure(preset, method, changes)

    def cells(self, part: str) -> dict[Path, Config]:
        """The runs of a part, by their folders."""
        if part == "long":
            return {self.runs / f"{method}-200": self.config(method, "cifar10-200") for method in self.scale.long}
        if part == "seeds":
            return {
                self.runs / f"{method}-seed{seed}": self.config(method, seed=seed)
                for seed in (1, 2)
                for method in self.scale.seeds
            }
        if part == "guard":
            return {self.runs / "fgsm-guard": replace(self.config("fgsm"), guard="pgd2")}
        methods = {"main": MAIN, "more": MORE, "autoattack": MAIN + MORE}[part]
        return {self.runs / method: self.config(method) for method in methods}

    # -- what is done with them --------------------------------------------------------------------------------------

    def train_all(self) -> None:
        """Train the runs of all parts that are asked for, as far as they are not complete. Raises OutOfTime."""
        self.share(
            Reproduction.train, {path: config for part in self.asked.parts for path, config in self.cells(part).items()}
        )

    def measure(self, part: str) -> None:
        """Measure the runs of a part, as far as they are not measured. Raises OutOfTime."""
        if part == "autoattack":
            self.share(Reproduction.attack, self.cells(part))
            return
        if part != "long" and self.cells(part):
            self.reference()
        self.share(Reproduction.diagnose if part != "long" else Reproduction.gaps, self.cells(part))

    def share(self, task: Callable[["Reproduction", Path, Config], None], cells: dict[Path, Config]) -> None:
        """Do `task` for each run: here in turn, or in `--jobs` processes. Raises OutOfTime."""
        if self.asked.jobs == 1:
            for path, config in cells.items():
                task(self, path, config)
            return
        self.asked.minutes = max(0.0, self.clock.end - time.monotonic() + FIGURES) / 60  # of each process
        with ProcessPoolExecutor(self.asked.jobs, mp_context=get_context("spawn")) as pool:
            tasks = [pool.submit(run_task, self.asked, task, path, config) for path, config in cells.items()]
        for ended in tasks:
            ended.result()

    def gaps(self, path: Path, _: Config) -> None:
        for against in AGAINST:
            gap(path, against, **self.how)

    def diagnose(self, path: Path, config: Config) -> None:
        self.gaps(path, config)
        strength(path, self.reference(), **self.how)

    def train(self, path: Path, config: Config) -> None:
        if is_complete(path, config):
            return
        self.clock.check()
        for metrics in epochs(config, path, resume=True, **self.how):
            numbers = ", ".join(
                f"{name} {getattr(metrics, name):.3f}" for name in ("train_loss", "clean", "fgsm", "pgd10", "gap")
            )
            say(f"{path.name} epoch {metrics.epoch}/{config.epochs}: {numbers}, {metrics.seconds:.1f} s")

    def attack(self, path: Path, _: Config) -> None:
        options: dict[str, Any] = {"epoch": "last", "device": self.asked.device, "progress": self.clock.check}
        evaluate(path, ATTACKS, images=self.asked.limit, **options)
        evaluate(path, ["aa"], images=self.asked.aa_images, **options)

    def reference(self) -> Path:
        """PGD-10 after its last epoch, as strength takes it."""
        run = Run(self.runs / "pgd")
        path = self.runs / f"pgd10_ep{run.last_epoch}.pt"
        if not path.exists():
            export(run, run.last_epoch, path)
        return path

    # -- what comes out ----------------------------------------------------------------------------------------------

    def render(self, part: str) -> None:
        """The figures of a part that is done."""
        runs: list[StoredRun] = [Run(path) for path in self.cells(part)]
        if not runs:
            return
        if part in BESIDE:
            beside = BESIDE[part] or self.scale.seeds
            runs = [Run(path) for path in self.cells("main") if path.name in beside] + runs
        epsilon, precision, planned = epsilon_label(runs[0].epsilon), runs[0].precision, runs[0].planned
        about = f"{TITLE}{self.scale.size}, ε = {epsilon}\n{runs[0].config.model.name}, {planned} epochs, {precision}"
        title = f"{self.trial}\n{about}" if self.trial else about
        for name, kind, against in self.figures(part):
            shown = SHOWN.get(kind)
            chosen = [run for run in runs if shown is None or run.config.method.name in shown]
            options = {"against": against, "reference": str(self.reference()), "device": self.asked.device}
            save(draw(kind, chosen, title=title, **options), self.out / f"{part}-{name}.png")

    def figures(self, part: str) -> Iterator[tuple[str, str, str | None]]:
        """(name, kind, against) of each figure of a part."""
        if part == "long" or (part == "main" and not self.scale.long):
            yield "robust-overfitting", "robust-overfitting", None
        if part in ("main", "guard", "more", "seeds"):
            yield "deterioration", "deterioration", None
            for against in AGAINST:
                yield f"gap-{against}", "gap", against
        if part in ("main", "seeds"):
            yield "steps", "steps", None
        if part == "main":
            yield "perturbations", "perturbations", None
            yield "indicators", "indicators", None

    def tables(self) -> None:
        """Everything that is measured so far, as tidy tables; and with what it was made."""
        every = [path for part in PARTS[:-1] for path in self.cells(part)]
        runs = [StoredRun(path) for path in every if (path / "run.h5").exists()]
        runs = [run for run in runs if run.epochs]
        for name in ("metrics", "gap", "strength", "steps", "step-indicators", "eval"):
            frames = [frame for run in runs if len(frame := run.frame(name))]
            if frames:
                suffix = "csv.gz" if name == "step-indicators" else "csv"
                write_table(pd.concat(frames, ignore_index=True), self.out / f"{name}.{suffix}")
        if runs:
            write_table(pd.DataFrame([summary(run) for run in runs]), self.out / "summary.csv")
        self.record({run.name: run.environment for run in runs})

    def record(self, environments: dict[str, Any]) -> None:
        """`environment.json`: the data's title, every command so far, and the machine and versions of every run."""
        path = self.out / "environment.json"
        commands = json.loads(path.read_text())["commands"] if path.exists() else []
        commands = list(dict.fromkeys([*commands, shlex.join(["python", *self.asked.command])]))
        about = {
            "title": self.title,
            "commands": commands,
            "compiled": self.asked.compile,
            "cuda": torch.version.cuda or "",
            "cores": os.cpu_count(),
            "runs": environments,
        }
        path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def summary(run: StoredRun) -> dict[str, Any]:
    """A run in one row: accuracies of its last epoch, when it collapsed, and what an epoch takes (median, seconds)."""
    last = run.metrics(run.last_epoch)
    seconds = pd.Series([run.metrics(epoch)["seconds"] for epoch in run.epochs])
    row = {"run": run.name, "method": run.config.method.name, "seed": run.config.seed, "epochs": run.last_epoch}
    row |= {"of": run.planned, **{name: last[name] for name in ("clean", "fgsm", "pgd10", "gap")}}
    gaps = run.frame("gap")
    if len(gaps):
        rows = gaps[(gaps["epoch"] == run.last_epoch) & (gaps["against"] == "pgd20") & (gaps["quantity"] == "accuracy")]
        row["pgd20"] = rows["value"].iloc[0] if len(rows) else float("nan")
    return row | {"onset": verdict_of(run).onset, "seconds": seconds.median()}


def write_table(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, float_format="%.6g")


def run_task(asked: argparse.Namespace, task: Callable[..., None], path: Path, config: Config) -> None:
    """A task in a process of its own."""
    task(Reproduction(asked), path, config)


def say(text: str) -> None:
    print(text, flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop after so many [default: %(default)s]")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas [default: %(default)s]")
    parser.add_argument("--scale", choices=SCALES, default="full", help="of the runs [default: %(default)s]")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, in processes [default: %(default)s]")
    parser.add_argument("--runs", type=Path, help="[default: runs/cifar10-jpeg, or with -small]")
    parser.add_argument(
        "--out", type=Path, help="[default: figures/cifar10-jpeg, or with -small; of a trial to be given]"
    )
    parser.add_argument("--device", default="auto", help="[default: %(default)s]")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16 [default: %(default)s]")
    parser.add_argument("--compile", action="store_true", help="run networks through torch.compile")
    parser.add_argument("--pgd-epochs", type=int, help="fewer epochs for the costly PGD-10 runs of `main` and `seeds`")
    parser.add_argument("--aa-images", type=int, default=1000, help="test images for AutoAttack [default: %(default)s]")
    parser.add_argument("--limit", type=int, help="a trial on so many training, and for attacks test images")
    parser.add_argument("--width", type=int, help="a trial with a small network, so many channels wide")
    parser.add_argument("--epochs", type=int, help="a trial of so many epochs (twice as many in `long`)")
    asked = parser.parse_args(arguments)
    asked.command = ["analyses/reproduce_cifar10.py", *arguments]
    asked.parts = [part.strip() for part in asked.parts.split(",")]
    if unknown := [part for part in asked.parts if part not in PARTS]:
        parser.error(f"unknown part '{unknown[0]}': there are {', '.join(PARTS)}")
    asked.runs = asked.runs or Path("runs") / SCALES[asked.scale].folder
    if asked.out is None:
        if not asked.limit is asked.width is asked.epochs is None:
            parser.error("a trial needs an --out of its own")
        asked.out = Path(__file__).parents[1] / "figures" / SCALES[asked.scale].folder
    return asked


def main(arguments: list[str]) -> int:
    """Do one piece; returns the exit code."""
    asked = parse(arguments)
    headless()
    done: list[str] = []
    try:
        pick_device(asked.device)
        reproduction = Reproduction(asked)
        reproduction.out.mkdir(parents=True, exist_ok=True)
        try:
            reproduction.train_all()
            for part in asked.parts:
                reproduction.measure(part)
                reproduction.render(part)
                done.append(part)
        except OutOfTime:
            pass
        reproduction.tables()
    except CoProbeError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    left = [part for part in asked.parts if part not in done]
    say(f"Done: {', '.join(done) or 'no part yet'}. " + (f"The same command goes on with {left[0]}." if left else ""))
    return MORE_TO_DO if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

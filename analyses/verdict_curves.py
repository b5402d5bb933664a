"""Measure the verdict on labelled accuracy curves of public adversarial training runs.

    python analyses/verdict_curves.py --data FOLDER

FOLDER holds `epochs.csv.gz` (run, source, dataset, method, seed, epoch, train, clean, fgsm, pgd) and `labels.csv` (run,
label, episode_starts, episode_ends, borderline, notes). The curves are not part of this project. Into figures/verdict/:
`confusion.md`, the confusion table with what was missed, and `examples.png`, labelled curves with episodes shaded.

The rules were developed on one half of the methods ("tuned") and then applied to the other ("held out"). A method
belongs to the held-out half if the SHA-256 of its name is odd. All runs of one source have the method `pgd` and differ
in the experiment (width, weight decay, schedule, ...); there the experiment, the second word of the run's name, is
appended to the method, so that both halves hold runs with robust overfitting.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from co_probe.diagnosis import Verdict, verdict

CLASSES = {"cifar10": 10, "svhn": 10, "cifar100": 100, "tiny-imagenet": 200}
FULL_TEST_SET = "locuslab/robust_overfitting"  # evaluated on all test images; the other sources on 1,000 or 2,000
KINDS = {"catastrophic-recovered": "recovered"}  # names of labels that differ from the kind of a verdict
SHOWN = ("healthy", "robust-overfitting", "catastrophic", "recovered", "diverged", "never-robust", "undecided")
INTRODUCTION = """\
Written by `python analyses/verdict_curves.py --data FOLDER`. Labelled curves of public runs, split by method: the rules
were developed on the half *tuned*. A method is *held out* if the SHA-256 of its name is odd; runs of
locuslab/robust_overfitting count as one method per experiment. Labels are judgements, and borderline means that
reasonable people differ. A false alarm is an episode in a run that is labelled healthy or robust overfitting and is not
borderline; the other figures include borderline runs unless they say otherwise."""
HISTORY = """\
The held-out half was looked at more than once. At the first look, 14 of 14 collapses were found and dated, without a
false alarm in 58 runs, and 78 of 79 kinds were right. Two points then changed, because the default arguments (1,000
images, unknown number of classes) gave wrong kinds in both halves: robust overfitting is judged by a comparison on the
same images, and an omitted number of classes is made up for by epochs at chance. The other rules and all thresholds are
those of the first look."""
TOLERANCE = 3  # epochs between labelled and found start
EXAMPLES = (
    "fastat/cifar10/fgsm_at/s0",
    "fastat/tiny-imagenet/zero_grad/s0",
    "liet/cifar10_eps16/s1",
    "liet/cifar100_eps16/s0",
    "ro/cifar10_wide_wideresnet_10",
    "ro/cifar10_l2_preactresnet18_5e-1",
)


@dataclass(frozen=True)
class Judged:
    """A labelled run and its verdict.

    Attributes:
        run: Name of the run.
        half: "tuned" or "held out".
        label: Labelled kind.
        starts: Labelled first epochs of episodes.
        borderline: Whether reasonable people differ about the label.
        verdict: Verdict on the curves.
    """

    run: str
    half: str
    label: str
    starts: tuple[int, ...]
    borderline: bool
    verdict: Verdict

    @property
    def collapsed(self) -> bool:
        """Whether the label has an episode."""
        return bool(self.starts)

    @property
    def found(self) -> bool:
        """Whether the verdict has an episode."""
        return bool(self.verdict.episodes)

    @property
    def dated(self) -> bool:
        """Whether the first episode starts within `TOLERANCE` epochs of the labelled start."""
        return self.found and self.collapsed and abs(self.verdict.episodes[0].start - self.starts[0]) <= TOLERANCE

    @property
    def false_alarm(self) -> bool:
        """Whether the verdict has an episode in a run that clearly has none."""
        return self.found and not self.collapsed and not self.borderline

    @property
    def right(self) -> bool:
        """Whether the kind is as labelled."""
        return self.verdict.kind == self.label


def half_of(run: str, source: str, method: str) -> str:
    """The half that a run belongs to; all runs of a method belong to the same one."""
    name = f"{method} {run.split('/')[1].split('_')[1]}" if source == FULL_TEST_SET else method
    return "held out" if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2 else "tuned"


def images(source: str, dataset: str) -> int:
    """Number of images that a source evaluates on."""
    if source == FULL_TEST_SET:
        return 26032 if dataset == "svhn" else 10000
    return 2000 if dataset == "tiny-imagenet" else 1000


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The curves and their labels, indexed by run."""
    return pd.read_csv(folder / "epochs.csv.gz"), pd.read_csv(folder / "labels.csv").set_index("run")


def judge(
    curves: pd.DataFrame, labels: pd.DataFrame, *, train: bool = True, sizes: bool = True, every: int = 1
) -> list[Judged]:
    """Verdicts on all runs.

    Args:
        curves: Accuracies per run and epoch.
        labels: Labels, indexed by run.
        train: Whether the verdict gets the accuracy on training images beside FGSM accuracy on test images.
        sizes: Whether the verdict gets the numbers of images and classes; otherwise it uses its defaults.
        every: Interval between the epochs that the verdict gets.

    Returns:
        One entry per run, in the order of the curves.
    """
    judged = []
    for run, curve in curves[curves["epoch"] % every == 0].groupby("run", sort=False):
        label, first = labels.loc[run], curve.iloc[0]
        source, dataset = first["source"], first["dataset"]
        found = verdict(
            clean=curve["clean"],
            fgsm=curve["fgsm"] if curve["fgsm"].notna().any() else curve["train"],
            pgd=curve["pgd"],
            epochs=curve["epoch"],
            train=curve["train"] if train else None,
            n=images(source, dataset) if sizes else 1000,
            classes=CLASSES[dataset] if sizes else None,
        )
        judged.append(
            Judged(
                run=run,
                half=half_of(run, source, first["method"]),
                label=KINDS.get(label["label"], label["label"]),
                starts=tuple(json.loads(label["episode_starts"])),
                borderline=label["borderline"] == "yes",
                verdict=found,
            )
        )
    return judged


def scores(judged: Sequence[Judged]) -> dict[str, tuple[int, int]]:
    """Counts (hits, total) of the figures that the verdict is measured by."""
    collapses = [each for each in judged if each.collapsed]
    clear = [each for each in judged if not each.borderline]
    clear_without = [each for each in clear if not each.collapsed and each.label != "diverged"]
    return {
        "collapses found": (sum(each.found for each in collapses), len(collapses)),
        f"dated within {TOLERANCE} epochs": (sum(each.dated for each in collapses), len(collapses)),
        "false alarms": (sum(each.false_alarm for each in clear_without), len(clear_without)),
        "kinds right": (sum(each.right for each in judged), len(judged)),
        "kinds right, not borderline": (sum(each.right for each in clear), len(clear)),
    }


def every_episode(judged: Sequence[Judged]) -> str:
    """Labelled episodes (later ones too) that were dated within `TOLERANCE` epochs, and episodes without a label."""
    pairs = [(each.starts, [episode.start for episode in each.verdict.episodes]) for each in judged]
    dated = sum(any(abs(start - one) <= TOLERANCE for one in found) for starts, found in pairs for start in starts)
    extra = sum(all(abs(start - one) > TOLERANCE for start in starts) for starts, found in pairs for one in found)
    return f"{dated} of {sum(len(starts) for starts, _ in pairs)}, and {extra} more"


def report(variants: Mapping[str, Sequence[Judged]]) -> str:
    """The confusion table in Markdown, with scores and misses.

    Args:
        variants: Judged runs by what the verdict is given; the first entry is the measurement proper.
    """
    halves = ("tuned", "held out")
    judged = next(iter(variants.values()))
    lines = [
        "# Verdict against labels",
        "",
        INTRODUCTION,
        "",
        HISTORY,
        "",
        "| | " + " | ".join(halves) + " |",
        "|---|" + "---|" * len(halves),
        "| runs | " + " | ".join(str(sum(each.half == half for each in judged)) for half in halves) + " |",
    ]
    by_half = [scores([each for each in judged if each.half == half]) for half in halves]
    for name in by_half[0]:
        cells = [f"{hits} of {total} ({hits / max(total, 1):.1%})" for hits, total in (each[name] for each in by_half)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    episodes = [every_episode([each for each in judged if each.half == half]) for half in halves]
    lines.append("| all episodes dated, and episodes without a label | " + " | ".join(episodes) + " |")
    lines += ["", "## With less information", "", "Coarse logs cannot be dated more closely than their interval.", ""]
    lines += ["| verdict is given | half | " + " | ".join(by_half[0]) + " |", "|---|---|" + "---|" * len(by_half[0])]
    for title, runs in variants.items():
        for half in halves:
            row = scores([each for each in runs if each.half == half]).values()
            lines.append(f"| {title} | {half} | " + " | ".join(f"{hits} of {total}" for hits, total in row) + " |")
    for half in halves:
        part = [each for each in judged if each.half == half]
        lines += [
            "",
            f"## Kinds, {half}",
            "",
            "Rows: label. Columns: verdict. In brackets: borderline runs of these.",
            "",
        ]
        lines += ["| | " + " | ".join(SHOWN) + " |", "|---|" + "---|" * len(SHOWN)]
        for label in SHOWN[:5]:
            counted = [[each for each in part if each.label == label and each.verdict.kind == kind] for kind in SHOWN]
            lines.append(f"| {label} | " + " | ".join(map(_count, counted)) + " |")
        methods = sorted({run.rsplit("/", 1)[0] for run in (each.run for each in part if each.collapsed)})
        lines += ["", "Runs with a collapse: " + ", ".join(f"`{method}`" for method in methods) + "."]
    misses = [each for each in judged if not each.right or each.false_alarm or each.collapsed != each.found]
    misses += [each for each in judged if each.collapsed and each.found and not each.dated and each.right]
    lines += [
        "",
        "## Misses",
        "",
        "| run | half | borderline | label | labelled starts | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for each in misses:
        border = "yes" if each.borderline else "no"
        starts = ", ".join(map(str, each.starts))
        text = each.verdict.summary()
        lines.append(
            f"| `{each.run}` | {each.half} | {border} | {each.label} | {starts} | {each.verdict.kind}: {text} |"
        )
    return "\n".join(lines) + "\n"


def _count(runs: Sequence[Judged]) -> str:
    borderline = sum(each.borderline for each in runs)
    return "" if not runs else f"{len(runs)}" + (f" ({borderline})" if borderline else "")


def draw(curves: pd.DataFrame, labels: pd.DataFrame, judged: Sequence[Judged], path: Path) -> None:
    """Draw the example curves with the episodes of the verdict shaded and those of the label as bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    verdicts = {each.run: each.verdict for each in judged}
    figure, grid = plt.subplots(2, 3, figsize=(12, 5.6), sharey=True, layout="constrained")
    for axes, run in zip(grid.flat, EXAMPLES, strict=True):
        curve = curves[curves["run"] == run]
        last = int(curve["epoch"].max())
        for column, colour in (("train", "0.65"), ("clean", "C0"), ("fgsm", "C1"), ("pgd", "C2")):
            if curve[column].notna().any():
                axes.plot(curve["epoch"], curve[column], color=colour, linewidth=1, label=column)
        for episode in verdicts[run].episodes:
            end = last if episode.end is None else episode.end
            axes.axvspan(episode.start - 0.5, end + 0.5, color="C3", alpha=0.15, linewidth=0)
        starts, ends = (json.loads(labels.loc[run, column]) for column in ("episode_starts", "episode_ends"))
        for start, end in zip(starts, ends, strict=True):
            axes.plot([start - 0.5, end + 0.5], [1.04, 1.04], color="C3", linewidth=3, solid_capstyle="butt")
        axes.set_title(f"{run}\n{verdicts[run].kind}", fontsize=9)
        axes.set(xlim=(0, last + 1), ylim=(0, 1.08), xlabel="epoch")
        axes.grid(alpha=0.25)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    grid[0, 1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.97))
    figure.suptitle("Shaded: episodes of the verdict. Bar at the top: labelled episodes.", fontsize=10)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with epochs.csv.gz and labels.csv")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "verdict")
    arguments = parser.parse_args()

    curves, labels = read(arguments.data)
    variants = {
        "everything": judge(curves, labels),
        "no accuracy on training images beside FGSM": judge(curves, labels, train=False),
        "neither that nor numbers of images and classes": judge(curves, labels, train=False, sizes=False),
        "every 5th epoch": judge(curves, labels, every=5),
        "every 10th epoch": judge(curves, labels, every=10),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = report(variants)
    (arguments.out / "confusion.md").write_text(text, encoding="utf-8")
    draw(curves, labels, variants["everything"], arguments.out / "examples.png")
    print(text)


if __name__ == "__main__":
    main()

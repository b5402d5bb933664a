"""Robust accuracy on the whole test set: the columns of Tables 2 to 4 of arXiv 2010.08034."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from co_probe.attacks.base import Perturbation
from co_probe.attacks.named import named_attack
from co_probe.data.dataset import to_unit
from co_probe.errors import UserError
from co_probe.inference.evaluation import evaluating
from co_probe.numerics.rng import make_rng
from co_probe.probes.base import accuracy_row
from co_probe.runs import Run
from co_probe.runs.build import pick_device

RunLike = str | Path | Run
Progress = Callable[[str, int, int], None]  # (run and attack, batches done, batches to do, over all runs)
ATTACKS = ("clean", "gaussian", "pgd20", "cw", "aa")
BATCH = 250  # images; fixed, because what is drawn for an image depends on its batch
SAVE_EVERY = 5.0  # seconds of attacking that a crash may cost, and at most a batch
IMAGES, RESULTS = "eval-images", "eval"  # tables: a row a batch, and a row a number


def evaluate(
    runs: RunLike | Iterable[RunLike],
    attacks: Sequence[str] = ATTACKS,
    *,
    epoch: int | str = "best",
    images: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Accuracy of an epoch of each run under each attack alone, on its test set; what is stored is not done again.

    `attacks`: names as `named_attack` takes them; `epoch`: `best` (of PGD-10 accuracy on the probe set), `last`, or a
    number; `images`: how many test images (all, if not given), the first of a shuffle that is the same for all runs.
    Returns the tidy table, with columns attack, epsilon (of the run, pixel units) and version (of AutoAttack) before
    quantity, value, low, high, n: `accuracy` with its Wilson interval and, without an attack, `seconds` of training an
    epoch (the median, the least and the most).

    Every number is what the attack alone gives. `clean`, `gaussian` and `fgsm` look at one point an image. The
    searching ones (PGD, C&W, AutoAttack) count an image as broken when any point they visit is misclassified, the
    image itself first. So an image that is misclassified clean, or that PGD-10 broke, is not attacked again by PGD-20,
    which would come by the same points; but one that only PGD broke is left to AutoAttack, and never the other way.

    Stored with the run: this table as `eval`, and as `eval-images` what became of each image, a row a batch: `correct`
    has a 1 for each image that stood, of `size` images from `start` on in `image_order`.
    Raises UserError for an unknown name or epoch, or if AutoAttack is asked for and its package is missing.

    >>> co_probe.evaluate("runs/fgsm", ["clean", "pgd20"], epoch="last")
    """
    if isinstance(runs, str | Path | Run):
        runs = [runs]
    if images is not None and images < 1:
        raise UserError(f"images must be at least 1, not {images}")
    opened = [run if isinstance(run, Run) else Run(run) for run in runs]
    target = pick_device(device)
    plans = [_Evaluation(run, list(dict.fromkeys(attacks)), pick_epoch(run, epoch), images) for run in opened]
    todo, done = sum(len(plan.missing) for plan in plans), 0
    for plan in plans:
        for name in plan.measure(target):
            done += 1
            if progress:
                progress(f"{plan.run.name} {name}", done, todo)
    return pd.concat([plan.rows() for plan in plans], ignore_index=True)


def pick_epoch(run: Run, epoch: int | str) -> int:
    """The number of the epoch `best`, `last` or N. Raises UserError if the run has no such epoch."""
    if epoch == "best":
        return run.best_epoch
    if epoch == "last":
        return run.last_epoch
    try:
        number = int(epoch)
    except ValueError:
        raise UserError(f"epoch must be best, last or a number, not '{epoch}'") from None
    if number not in run.epochs:
        raise UserError(f"{run.name} has no epoch {number}; its last is {run.last_epoch}")
    return number


def image_order(count: int) -> Tensor:
    """The order in which a test set of `count` images is taken: shuffled, since some come sorted by class."""
    return torch.randperm(count, generator=make_rng("cpu", 0, "evaluation"))


class _Evaluation:
    """One epoch of one run under some attacks."""

    def __init__(self, run: Run, names: list[str], epoch: int, images: int | None):
        self.run, self.names, self.epoch = run, names, epoch
        self.attacks = {name: named_attack(name, run.epsilon, run.norm, run.info.bounds) for name in names}
        self.order = image_order(len(run.data.test_y))[:images]
        starts = range(0, len(self.order), BATCH)
        self.batches = [(start, min(BATCH, len(self.order) - start)) for start in starts]
        self.kept = _read(run, epoch)
        self.versions = {name: self._version(name) for name in names}
        # The attacks that settle images for others come first.
        by_reach = sorted(names, key=lambda name: sum(self.attacks[name].covers(a) for a in self.attacks.values()))
        self.missing = [
            (name, *batch) for name in by_reach for batch in self.batches if (*self._key(name), *batch) not in self.kept
        ]

    def measure(self, device: torch.device) -> Iterator[str]:
        """Do what is missing, yielding the attack's name after each batch; what is done is stored every few seconds."""
        if not self.missing:
            self._save([])
            return
        run, new, saved = self.run, [], time.monotonic()
        model = run.load_model(self.epoch, device)
        try:
            for name, start, size in self.missing:
                index = self.order[start : start + size]
                x, y = to_unit(run.data.test_x[index]).to(device), run.data.test_y[index].to(device)
                known = self._known(self.attacks[name], start, size)
                rng = make_rng(device, run.info.probe_seed, "evaluation", start)
                with evaluating(model):
                    stands = self.attacks[name].robust_mask(
                        model, x, y, rng, candidates=None if known is None else known.to(device)
                    )
                self.kept[(*self._key(name), start, size)] = stands.cpu()
                new.append((name, start, size))
                if time.monotonic() - saved > SAVE_EVERY:
                    self._save(new)
                    new, saved = [], time.monotonic()
                yield name
        finally:
            self._save(new)

    def rows(self) -> pd.DataFrame:
        """The tidy table of the attacks that are done, in the order they were asked for."""
        labels = self.run.labels(self.epoch, RESULTS)
        rows: list[dict[str, Any]] = []
        for name in self.names:
            parts = [self.kept.get((*self._key(name), *batch)) for batch in self.batches]
            done = [part for part in parts if part is not None]
            if len(done) == len(parts):
                about = {"attack": name, "epsilon": self.run.epsilon, "version": self.versions[name]}
                rows.append(labels | about | accuracy_row("accuracy", torch.cat(done)))
        seconds = [self.run.metrics(epoch)["seconds"] for epoch in self.run.epochs]
        middle = statistics.median(seconds)  # not the mean: the first may have waited for a compiler
        about = {"attack": "", "epsilon": self.run.epsilon, "version": ""}
        number = {"quantity": "seconds", "value": middle, "low": min(seconds), "high": max(seconds), "n": len(seconds)}
        return pd.DataFrame([*rows, labels | about | number])

    def _version(self, name: str) -> str:
        """That of a complete stored result if there is one (so that no package is needed to read it), else today's."""
        stored = dict.fromkeys(version for attack, version, *_ in self.kept if attack == name)
        for version in reversed(stored):
            if all((name, version, *batch) in self.kept for batch in self.batches):
                return version
        return self.attacks[name].version

    def _key(self, name: str) -> tuple[str, str]:
        return name, self.versions[name]

    def _known(self, attack: Perturbation, start: int, size: int) -> Tensor | None:
        """The images of a batch that attacks covered by this one have left, or None if there was none such."""
        left = None
        for (name, _, *batch), stands in self.kept.items():
            if batch == [start, size] and attack.covers(
                named_attack(name, self.run.epsilon, self.run.norm, self.run.info.bounds)
            ):
                left = stands if left is None else left & stands
        return left

    def _save(self, new: list[tuple[str, int, int]]) -> None:
        """Add batches to the stored ones, and the finished numbers to the table of results."""
        labels = self.run.labels(self.epoch, IMAGES)
        fresh = []
        for name, start, size in new:
            about = {"attack": name, "version": self.versions[name], "start": start, "size": size}
            bits = "".join("01"[int(bit)] for bit in self.kept[(*self._key(name), start, size)])
            fresh.append(labels | about | {"correct": bits})
        _add(self.run, IMAGES, pd.DataFrame(fresh), ["epoch", "attack", "version", "start", "size"])
        _add(self.run, RESULTS, self.rows(), ["epoch", "attack", "version", "quantity", "n"])


def _read(run: Run, epoch: int) -> dict[tuple[str, str, int, int], Tensor]:
    """{(attack, version, start, size): which images of the batch stood} of an epoch, oldest first."""
    frame = run.frame(IMAGES)
    if not len(frame):
        return {}
    frame = frame[frame["epoch"] == epoch]
    columns = (frame[name] for name in ("attack", "version", "start", "size", "correct"))
    return {
        (str(attack), str(version), int(start), int(size)): torch.tensor([bit == "1" for bit in bits])
        for attack, version, start, size, bits in zip(*columns, strict=True)
    }


def _add(run: Run, table: str, rows: pd.DataFrame, key: list[str]) -> None:
    """Put `rows` into a stored table, in place of those with the same key. What is there already is not written."""
    old = run.frame(table)
    merged = pd.concat([old, rows], ignore_index=True).drop_duplicates(key, keep="last") if len(rows) else old
    if len(merged) and not (len(old) and _in_order(merged, key).equals(_in_order(old, key))):
        run.add_rows(table, rows, key)


def _in_order(frame: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    return frame.sort_values(key, ignore_index=True)

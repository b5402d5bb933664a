"""Attacks on the whole test set, batch by batch, and storage of their results for `eval`."""

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from co_probe.attacks.base import Perturbation
from co_probe.attacks.named import named_attack
from co_probe.config.labels import AttackLike, attack_name
from co_probe.data.dataset import to_unit
from co_probe.errors import UserError
from co_probe.inference.forward import Forward
from co_probe.numerics.rng import make_rng
from co_probe.probes.base import accuracy_row
from co_probe.probes.runner import live_run
from co_probe.probes.table import Table, pick_epoch, with_epsilon
from co_probe.runs import Run
from co_probe.store import StoredRun

BATCH = 250  # images; fixed, because random numbers of an image depend on its batch
SAVE_EVERY = 5.0  # seconds between writes: a crash loses at most this and one batch
IMAGES, RESULTS = "eval-images", "eval"  # tables: a row for each batch, and a row for each number


def image_order(count: int) -> Tensor:
    """Return the fixed shuffled order of a test set of `count` images, since some are sorted by class."""
    return torch.randperm(count, generator=make_rng("cpu", 0, "evaluation"))


class EvaluationTable(Table):
    """One epoch of one run under some attacks.

    Args:
        run: The run.
        attacks: Attacks or their names.
        epoch: `best`, `last` or a number.
        images: Number of test images; None for all.
        epsilon: Norm bound of named attacks, in pixel units; None for the run's.

    Raises:
        UserError: For an unknown attack or epoch, or if AutoAttack's package is missing.
    """

    def __init__(
        self,
        run: StoredRun,
        attacks: Sequence[AttackLike],
        epoch: int | str,
        images: int | None,
        epsilon: float | None,
    ):
        self.run = self.live = live_run(run)
        self.epoch = pick_epoch(run, epoch)
        self.epsilon = run.epsilon if epsilon is None else epsilon
        self.attacks = {attack_name(attack): self._attack(attack) for attack in attacks}
        self.x, self.y = _test_images(self.live)
        self.order = image_order(len(self.y))[:images]
        starts = range(0, len(self.order), BATCH)
        self.batches = [(start, min(BATCH, len(self.order) - start)) for start in starts]
        self.stands = self._read()
        self.versions = {name: self._version(name) for name in self.attacks}
        # Attacks whose results let others skip images come first.
        by_reach = sorted(
            self.attacks, key=lambda name: sum(self.attacks[name].covers(a) for a in self.attacks.values())
        )
        self.missing = [
            (name, *batch)
            for name in by_reach
            for batch in self.batches
            if (*self._key(name), *batch) not in self.stands
        ]

    def check(self, run: Run) -> None:
        """Accept every run."""

    def store_recorded(self) -> None:
        """Store results of batches that were finished before a crash, and the seconds of training."""
        if not self.missing:
            self._save([])

    def measure(self, run: Run, device: torch.device) -> Iterator[str]:
        """Evaluate missing batches, yielding run and attack after each; store results every few seconds."""
        new, saved = [], time.monotonic()
        forward = Forward(run.load_model(self.epoch, device), batchnorm="eval")
        try:
            for name, start, size in self.missing:
                index = self.order[start : start + size]
                x, y = to_unit(self.x[index]).to(device), self.y[index].to(device)
                known = self._known(self.attacks[name], start, size)
                rng = make_rng(device, run.info.probe_seed, "evaluation", start)
                stands = self.attacks[name].robust_mask_unchecked(
                    forward, x, y, rng, candidates=None if known is None else known.to(device)
                )
                self.stands[(*self._key(name), start, size)] = stands.cpu()
                new.append((name, start, size))
                if time.monotonic() - saved > SAVE_EVERY:
                    self._save(new)
                    new, saved = [], time.monotonic()
                yield f"{run.name} {name}"
        finally:
            self._save(new)

    def rows(self) -> pd.DataFrame:
        """Return the tidy table of finished attacks, in the order of `attacks`."""
        labels = self.run.labels(self.epoch, RESULTS)
        rows: list[dict[str, Any]] = []
        for name in self.attacks:
            parts = [self.stands.get((*self._key(name), *batch)) for batch in self.batches]
            done = [part for part in parts if part is not None]
            if len(done) == len(parts):
                about = {"attack": name, "epsilon": self.epsilon, "version": self.versions[name]}
                rows.append(labels | about | accuracy_row("accuracy", torch.cat(done)))
        seconds = [metrics["seconds"] for e in self.run.epochs if "seconds" in (metrics := self.run.metrics(e))]
        if seconds:
            middle = statistics.median(seconds)  # not the mean: the first epoch may include compilation
            about = {"attack": "", "epsilon": self.epsilon, "version": ""}
            row = {"quantity": "seconds", "value": middle, "low": min(seconds), "high": max(seconds)}
            rows.append(labels | about | row | {"n": len(seconds)})
        return pd.DataFrame(rows)

    def _attack(self, attack: AttackLike) -> Any:
        return named_attack(attack, self.epsilon, self.run.norm, self.live.info.bounds)

    def _version(self, name: str) -> str:
        """Return the version of a complete stored result (which needs no package), else that of the package."""
        stored = dict.fromkeys(version for attack, version, *_ in self.stands if attack == name)
        for version in reversed(stored):
            if all((name, version, *batch) in self.stands for batch in self.batches):
                return version
        return self.attacks[name].version

    def _key(self, name: str) -> tuple[str, str]:
        return name, self.versions[name]

    def _known(self, attack: Perturbation, start: int, size: int) -> Tensor | None:
        """Return the images of a batch that no attack covered by this one broke; None without such an attack."""
        left = None
        for (name, _, *batch), stands in self.stands.items():
            if batch == [start, size] and (other := self._stored_attack(name)) and attack.covers(other):
                left = stands if left is None else left & stands
        return left

    def _stored_attack(self, name: str) -> Any:
        """Return the attack of a stored name; None if it was an object that is not part of this evaluation."""
        try:
            return self.attacks[name] if name in self.attacks else self._attack(name)
        except UserError:
            return None

    def _read(self) -> dict[tuple[str, str, int, int], Tensor]:
        """Read {(attack, version, start, size): correctness of the batch} at this epoch and ε, oldest first."""
        frame = self._stored(IMAGES)
        if not len(frame):
            return {}
        frame = frame[(frame["epoch"] == self.epoch) & (frame["epsilon"] == self.epsilon)]
        columns = (frame[name] for name in ("attack", "version", "start", "size", "correct"))
        return {
            (str(attack), str(version), int(start), int(size)): torch.tensor([bit == "1" for bit in bits])
            for attack, version, start, size, bits in zip(*columns, strict=True)
        }

    def _save(self, new: list[tuple[str, int, int]]) -> None:
        """Add batches to the stored ones, and the finished numbers to the table of results."""
        labels = self.run.labels(self.epoch, IMAGES)
        fresh = []
        for name, start, size in new:
            about = {"attack": name, "epsilon": self.epsilon, "version": self.versions[name]}
            bits = "".join("01"[int(bit)] for bit in self.stands[(*self._key(name), start, size)])
            fresh.append(labels | about | {"start": start, "size": size, "correct": bits})
        self._add(IMAGES, pd.DataFrame(fresh), ["epoch", "attack", "epsilon", "version", "start", "size"])
        self._add(RESULTS, self.rows(), ["epoch", "attack", "epsilon", "version", "quantity", "n"])

    def _add(self, table: str, rows: pd.DataFrame, key: list[str]) -> None:
        """Add `rows` to a stored table, replacing rows with the same key; unchanged rows are not written again."""
        old = self._stored(table)
        merged = pd.concat([old, rows], ignore_index=True).drop_duplicates(key, keep="last") if len(rows) else old
        if len(merged) and not (len(old) and _in_order(merged, key).equals(_in_order(old, key))):
            self.run.add_rows(table, rows, key)

    def _stored(self, table: str) -> pd.DataFrame:
        return with_epsilon(self.run.frame(table), self.run)


def _test_images(run: Run) -> tuple[Tensor, Tensor]:
    """Return test images and labels of the run's data set; of an imported run, those stored with it."""
    return run.test_data() if run.info.settings is None else (run.data.test_x, run.data.test_y)


def _in_order(frame: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    return frame.sort_values(key, ignore_index=True)

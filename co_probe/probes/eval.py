"""Robust accuracy on the whole test set: the columns of Tables 2 to 4 of arXiv 2010.08034."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd

from co_probe.config.labels import AttackLike, attack_name
from co_probe.errors import UserError
from co_probe.executor import Executor
from co_probe.probes.base import Diagnostic
from co_probe.probes.named import probe
from co_probe.probes.runner import Progress
from co_probe.probes.table import Epochs, Table, pick_epoch, with_epsilon
from co_probe.store import RunLike, StoredRun

ATTACKS = ("clean", "gaussian", "pgd20", "cw", "aa")


@dataclass(frozen=True, kw_only=True)
class Eval(Diagnostic):
    """Accuracy of one epoch under each attack alone, on the whole test set.

    Quantities: `accuracy` with its Wilson interval, a row for each attack (columns `attack`, `epsilon`, and `version`
    of AutoAttack); and, without an attack, `seconds` of training per epoch (median, least and most), if recorded.

    `clean`, `gaussian` and `fgsm` evaluate one point per image. Iterative attacks (PGD, C&W, AutoAttack) count an image
    as broken when any point that they visit is misclassified, starting with the image itself. Therefore PGD-20 skips
    images that are misclassified clean or broken by PGD-10, whose points it visits too. AutoAttack does not skip images
    that only PGD broke, and vice versa.

    Args:
        attacks: Attacks or their names.
        epoch: `best` (highest PGD-10 accuracy on validation images, or else on test images of the probe set), `last`,
            or a number.
        images: Number of test images, the first of a shuffle that is the same for all runs; None for all.
        epsilon: Norm bound of named attacks, in pixel units; None for the run's.

    Raises:
        UserError: If `images` is not positive.
    """

    name: ClassVar[str] = "eval"
    shares: ClassVar[tuple[str, ...]] = ("accuracy",)
    own: ClassVar[tuple[str, ...]] = ("attack",)
    figure: ClassVar[str] = "trade-off"
    attacks: Sequence[AttackLike] = ATTACKS
    epoch: int | str = "best"
    images: int | None = None
    epsilon: float | None = None
    split: str = field(default="test", init=False)

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise UserError(f"images must be at least 1, not {self.images}")

    def table(self, run: StoredRun, epochs: Epochs | None = None, *, compile: bool = False) -> Table:
        """Return the results on a run. The epoch is a setting; nothing is compiled, since images leave the batch."""
        from co_probe.probes.evaluation import EvaluationTable

        return EvaluationTable(run, self.attacks, self.epoch, self.images, self.epsilon)

    def select(self, frame: pd.DataFrame, run: StoredRun) -> pd.DataFrame:
        """Return stored accuracies of these attacks at this epoch, each on the number of images it was measured on."""
        if not len(frame):
            return frame
        frame = with_epsilon(frame, run)
        epsilon = run.epsilon if self.epsilon is None else self.epsilon
        names = [attack_name(attack) for attack in self.attacks]
        frame = frame[(frame["epoch"] == pick_epoch(run, self.epoch)) & (frame["epsilon"] == epsilon)]
        if self.images is not None:
            frame = frame[frame["n"] == self.images]
        frame = frame[frame["attack"].isin(names)].sort_values("n", kind="stable")
        return frame.drop_duplicates("attack", keep="last")


def evaluate(
    runs: RunLike | Iterable[RunLike],
    attacks: Sequence[AttackLike] = ATTACKS,
    *,
    epoch: int | str = "best",
    images: int | None = None,
    epsilon: float | Sequence[float] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Measure accuracy of one epoch of each run under each attack on its test set, where it is not stored.

    The run stores the table as `eval`, and the outcome of each image as `eval-images`, with a row per batch: `correct`
    has a 1 for each correctly classified image, of `size` images from `start` on in `image_order`.

    Args:
        runs: Paths or runs, one or several.
        attacks: Attacks or their names.
        epoch: `best` (highest PGD-10 accuracy on validation images, or else on test images of the probe set), `last`,
            or a number.
        images: Number of test images, the first of a shuffle that is the same for all runs; None for all.
        epsilon: Norm bound or bounds of named attacks, in pixel units; None for the run's.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        progress: Called after each batch with run and attack, the number of batches done, and of all batches.
        executor: Executor of one task per run, with the `submit` of `concurrent.futures`; its workers must see the runs
            under the same paths. Progress is then reported per run. If None, this process measures.

    Returns:
        The tidy table, with columns attack, epsilon and version before quantity, value, low, high, n.

    Raises:
        UserError: For an unknown name or epoch, or if AutoAttack's package is missing.

    Example:
        >>> co_probe.evaluate("runs/fgsm", ["clean", "pgd20"], epoch="last")
    """
    settings: dict[str, Any] = {"attacks": list(attacks), "epoch": epoch, "images": images, "epsilon": epsilon}
    return probe("eval", runs, device=device, progress=progress, executor=executor, **settings)

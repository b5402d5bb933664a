"""Early stopping by accuracy under PGD on a training batch."""

from typing import Any

from torch import Tensor

from co_probe.attacks import PGD, Bounds
from co_probe.attacks.base import is_correct
from co_probe.config import Config
from co_probe.errors import DamagedFile, Stopped
from co_probe.inference.forward import Forward
from co_probe.numerics.rng import make_rng
from co_probe.training.group import ALONE, Group

DROP = 0.2  # of accuracy
STEPS = 5


class EarlyStop:
    """The rule of Wong et al.: stop when accuracy under PGD-5 is 20 points below that of the previous epoch.

    It is measured after each epoch on the first augmented batch of the epoch, with steps of ε/4 from a random start.
    The epoch of the fall is not stored, so the newest epoch of the run is the last one before it. Only successive
    epochs are compared, so a slower decline does not stop a run. BatchNorm uses the statistics of the batch, as in the
    authors' code, but unlike there it does not update the running ones, so that the rule does not change the run. Cost:
    11 forward and backward passes on one batch per epoch.

    Args:
        config: The settings of the run.
        bounds: Least and greatest pixel value.

    Reference:
        Wong, Rice and Kolter (ICLR 2020), "Fast is better than free: revisiting adversarial training",
        https://arxiv.org/abs/2001.03994; github.com/locuslab/fast_adversarial, `train_fgsm.py --early-stop`, which
        restores the weights before the fall, as here.
    """

    def __init__(self, config: Config, bounds: Bounds):
        self._seed = config.seed
        self._attack = PGD(
            epsilon=config.epsilon, steps=STEPS, step_size=config.epsilon / 4, norm=config.norm, bounds=bounds
        )
        self.accuracy = 0.0  # accuracy of the last epoch, in [0, 1]
        self._batch: tuple[Tensor, Tensor] | None = None

    def watch(self, x: Tensor, y: Tensor) -> None:
        """Observe a batch of the epoch, images (B, C, H, W) and classes (B,); store the first one for `look`."""
        self._batch = self._batch or (x, y)

    def look(self, forward: Forward, epoch: int, group: Group = ALONE) -> None:
        """Measure accuracy at the end of `epoch` on the first batch of each process.

        Raises:
            Stopped: Accuracy fell by more than 20 points.
        """
        assert self._batch is not None
        (x, y), self._batch = self._batch, None
        inner = forward.for_perturbation("update")
        delta = self._attack.generate(inner, x, y, make_rng(x.device, self._seed, "early stop", epoch))
        seen = is_correct(inner, x + delta, y).double().mean()
        if group.size > 1:
            group.average([seen], weight=len(x))
        accuracy = seen.item()
        if accuracy - self.accuracy < -DROP:
            raise Stopped(
                f"stopped in epoch {epoch}: accuracy under PGD-{STEPS} on a training batch fell from "
                f"{self.accuracy:.1%} to {accuracy:.1%}; epochs kept: {epoch - 1}"
            )
        self.accuracy = accuracy

    def state_dict(self) -> dict[str, float]:
        """Return the state for resuming."""
        return {"accuracy": self.accuracy}

    def load(self, state: dict[str, Any], source: str) -> None:
        """Restore what `state_dict` returned.

        Raises:
            DamagedFile: The state is invalid; `source` names the file.
        """
        accuracy = state.get("early_stop", {}).get("accuracy")
        if not isinstance(accuracy, float) or not 0 <= accuracy <= 1:
            raise DamagedFile(f"{source}: the resume file has no accuracy of the early stop")
        self.accuracy = accuracy

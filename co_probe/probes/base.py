"""What a probe is, and what it is given."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from co_probe.attacks.named import named_attack
from co_probe.inference.evaluation import Outcome, outcome, perturb
from co_probe.inference.execution import compiling, input_gradients_only
from co_probe.methods.base import Method
from co_probe.numerics.rng import make_rng
from co_probe.numerics.statistics import wilson
from co_probe.runs import Run

Row = dict[str, Any]  # quantity, value, low, high, n: one number of a tidy table


@dataclass(frozen=True)
class Checkpoint:
    """A run after an epoch, on a device; the network is `loaded` already, or loaded when it is asked for."""

    run: Run
    epoch: int
    device: torch.device
    loaded: nn.Module | None = None

    @cached_property
    def model(self) -> nn.Module:
        """The network, in eval mode."""
        return self.run.load_model(self.epoch, self.device) if self.loaded is None else self.loaded

    @cached_property
    def method(self) -> Method:
        """The method, with what it had learned."""
        return self.run.generator(self.epoch)


@dataclass(frozen=True)
class ProbeSet:
    """The images that every diagnostic of a run uses, (n, C, H, W) in [0, 1], and their classes.

    `epsilon`, `seed`, `norm`, `bounds`: the run's; `state`: what the method keeps for each image at this checkpoint,
    if anything.
    """

    x: Tensor
    y: Tensor
    epsilon: float
    seed: int
    state: Tensor | None = None
    norm: str = "linf"
    bounds: tuple[float, float] = (0.0, 1.0)

    def rng(self) -> torch.Generator:
        """The draws of a probe: the same for every checkpoint, so that differences are the model's."""
        return make_rng(self.x.device, self.seed, "probe")

    def perturb(self, checkpoint: Checkpoint, generator: str) -> Tensor:
        """δ at the checkpoint for these images: f_A if `generator` is `method`, else that of the attack so named."""
        model = checkpoint.model
        with compiling(model), input_gradients_only(model):
            if generator == "method":
                return perturb(model, checkpoint.method.perturb, self.x, self.y, self.rng(), self.state)
            return perturb(
                model, named_attack(generator, self.epsilon, self.norm, self.bounds), self.x, self.y, self.rng()
            )

    def outcome(self, model: nn.Module, delta: Tensor | None = None) -> Outcome:
        """What `model` makes of these images with δ added."""
        with compiling(model):
            return outcome(model, self.x, self.y, delta, self.bounds)


class Probe(ABC):
    """A diagnostic. A new one is one file with a frozen dataclass whose fields are its settings.

    `split`: `test` or `train`, which images of the probe set it uses.
    """

    name: ClassVar[str]
    split: str

    @property
    def reads_models(self) -> bool:
        """Whether it needs the network of every epoch, so that these are read ahead."""
        return True

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """What tells this probe's rows from those of the same probe with other settings: columns of the table."""

    @abstractmethod
    def measure(self, checkpoint: Checkpoint, images: ProbeSet) -> list[Row]:
        """The rows of one epoch."""

    def yardsticks(self, images: ProbeSet) -> list[Row]:
        """Rows that no epoch changes; they are stored as epoch 0."""
        return []

    def objection(self, run: Run) -> str | None:
        """Why this probe cannot measure `run`, or None if it can."""
        return None


def accuracy_row(quantity: str, correct: Tensor, n: int | None = None) -> Row:
    """An accuracy with its 95% Wilson interval.

    `correct`: bool, one for each image; `n`: the number of images, if `correct` holds several draws of each.
    """
    n, value = n or correct.numel(), correct.float().mean().item()
    low, high = wilson(value, n)
    return {"quantity": quantity, "value": value, "low": low, "high": high, "n": n}

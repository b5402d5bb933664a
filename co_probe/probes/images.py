"""What a probe measures on: a checkpoint, and the images of the probe set."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from co_probe.attacks.named import named_attack
from co_probe.config.labels import AttackLike
from co_probe.inference.evaluation import Outcome, outcome, perturb
from co_probe.inference.execution import compiling, input_gradients_only
from co_probe.methods.base import Method
from co_probe.numerics.rng import make_rng
from co_probe.runs import Run


@dataclass(frozen=True)
class Checkpoint:
    """A run after an epoch.

    Attributes:
        run: The run.
        epoch: Its number, from 1.
        device: Where the model is.
        model: The model after the epoch, in eval mode; the next epoch's weights are loaded in place.
    """

    run: Run
    epoch: int
    device: torch.device
    model: nn.Module

    @cached_property
    def method(self) -> Method:
        """The method, with what it had learned."""
        return self.run.generator(self.epoch)


@dataclass(frozen=True)
class ProbeSet:
    """The images that every diagnostic of a run uses.

    Attributes:
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).
        epsilon: Norm bound of attacks that are given by name: the run's, or the probe's setting.
        seed: The run's seed.
        state: What the method stores for each image at this checkpoint, if anything.
        norm: The norm that `epsilon` bounds.
        bounds: Least and greatest value of a pixel.
    """

    x: Tensor
    y: Tensor
    epsilon: float
    seed: int
    state: Tensor | None = None
    norm: str = "linf"
    bounds: tuple[float, float] = (0.0, 1.0)

    def rng(self) -> torch.Generator:
        """Random numbers that are the same for every checkpoint, so that differences are the model's."""
        return make_rng(self.x.device, self.seed, "probe")

    def perturb(self, checkpoint: Checkpoint, generator: AttackLike) -> Tensor:
        """δ at the checkpoint, of the shape of `x`.

        Args:
            checkpoint: The run after an epoch.
            generator: `method` for the run's own generator f_A, an attack's name, or an attack.
        """
        model = checkpoint.model
        with compiling(model), input_gradients_only(model):
            if generator == "method":
                attack = checkpoint.run.training_attack(checkpoint.epoch, self.epsilon)
                return perturb(model, attack, self.x, self.y, self.rng(), self.state)
            named = named_attack(generator, self.epsilon, self.norm, self.bounds)
            return perturb(model, named, self.x, self.y, self.rng())

    def outcome(self, model: nn.Module, delta: Tensor | None = None) -> Outcome:
        """Loss and correctness of `model` on these images with δ added."""
        with compiling(model):
            return outcome(model, self.x, self.y, delta, self.bounds)

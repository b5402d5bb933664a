"""Inputs of a probe: a checkpoint, and the images of the probe set."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from co_probe.attacks.base import Model
from co_probe.attacks.named import named_attack
from co_probe.config.labels import AttackLike
from co_probe.inference.evaluation import Outcome, outcome, perturb
from co_probe.inference.forward import Forward
from co_probe.methods.base import Method
from co_probe.numerics.rng import make_rng
from co_probe.runs import Run


@dataclass(frozen=True)
class Checkpoint:
    """A run after an epoch.

    Attributes:
        run: The run.
        epoch: Its number, from 1.
        device: Device of the model.
        model: The model after the epoch, in eval mode; the next epoch's weights are loaded in place.
        compiled: Whether compiled code makes and evaluates perturbations.
    """

    run: Run
    epoch: int
    device: torch.device
    model: nn.Module
    compiled: bool = False

    @property
    def forward(self) -> Forward:
        """The model in eval mode, compiled if `compiled`; not for second derivatives."""
        return Forward(self.model, batchnorm="eval", compiled=self.compiled)

    @cached_property
    def method(self) -> Method:
        """The method with its learned state at this epoch."""
        return self.run.generator(self.epoch)


@dataclass(frozen=True)
class ProbeSet:
    """The images that every diagnostic of a run uses.

    Attributes:
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).
        epsilon: Norm bound of named attacks: that of the run, or the probe's setting.
        seed: The run's seed.
        state: Per-image state of the method at this checkpoint, or None.
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
        """Make a generator with the same seed for every checkpoint, so that differences are due to the model."""
        return make_rng(self.x.device, self.seed, "probe")

    def perturb(self, checkpoint: Checkpoint, generator: AttackLike) -> Tensor:
        """Make δ at the checkpoint, of the shape of `x`.

        Args:
            checkpoint: The run after an epoch.
            generator: `method` for the run's generator f_A, an attack's name, or an attack.
        """
        forward = replace(checkpoint.forward, weight_gradients=False)
        if generator == "method":
            attack = checkpoint.run.training_attack(checkpoint.epoch, self.epsilon)
            return perturb(forward, attack, self.x, self.y, self.rng(), self.state)
        named = named_attack(generator, self.epsilon, self.norm, self.bounds)
        return perturb(forward, named, self.x, self.y, self.rng())

    def outcome(self, model: Model, delta: Tensor | None = None) -> Outcome:
        """Compute loss and correctness of `model` on these images with δ added."""
        return outcome(model, self.x, self.y, delta, self.bounds)

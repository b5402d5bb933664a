"""What a training method is."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.attacks import Attack, Bounds, Rng
from co_probe.config.labels import NORMS
from co_probe.data.augment import View
from co_probe.inference.evaluation import evaluating
from co_probe.inference.execution import input_gradients_only


@dataclass(frozen=True)
class Task:
    """What a method may need to know before training: for step counts and for state it keeps per image."""

    images: int  # training images
    shape: tuple[int, int, int]  # (channels, height, width) of one, without padding
    padding: int  # pixels of padding that crops are taken from
    steps: int  # optimizer steps in the whole run, replays included
    device: torch.device
    rng: torch.Generator
    largest: int = 0  # numbers in the largest store of the run, where images grow

    @property
    def store_shape(self) -> tuple[int, int, int, int]:
        """Of a tensor that keeps a number for each pixel of each padded training image, for `View.take` and `put`."""
        channels, height, width = self.shape
        return self.images, channels, height + 2 * self.padding, width + 2 * self.padding

    def new_store(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Such a tensor, not yet filled. Raises ValueError if the device will not have memory for the run's largest."""
        need = dtype.itemsize * max(self.largest, math.prod(self.store_shape))
        if self.device.type == "cuda":
            there = torch.cuda.get_device_properties(self.device).total_memory
        else:
            there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if need > there:
            raise ValueError(
                f"what it keeps for each pixel of {self.images} images takes {need / 1e9:.0f} GB, and there are "
                f"{there / 1e9:.0f} GB: choose a method that keeps nothing, or APART with "
                "method.learn_initialisation=false"
            )
        return torch.empty(self.store_shape, dtype=dtype, device=self.device)


@dataclass(frozen=True)
class Batch:
    """`x`: (B, C, H, W) in [0, 1], augmented; `y`: (B,); `view`: where x was cut out; `rate`: the schedule, 0 to 1."""

    x: Tensor
    y: Tensor
    view: View
    rate: float
    rng: torch.Generator


@dataclass(frozen=True)
class StepResult:
    """On the images that the weights were updated with: mean loss in nats, and how many were classified rightly.

    The loss is what the step descended: regularisers are in it.
    """

    loss: Tensor
    correct: Tensor


@dataclass(eq=False)
class Method:
    """How a method makes a perturbation, and what it does with it.

    A new method is one file with a subclass: an `attack` is enough for those that train on its perturbations, or a
    `perturb`; others define their own `step`.
    `epsilon`: bound in pixel units, of the ball of `norm` (the run's, one of the method's `norms`); while ε
    warms up the loop sets it before each step, so read it when it is used, and keep nothing that was made from it.
    `batchnorm`: what BatchNorm does in the passes that make the perturbation:
    it uses batch statistics and moves the running ones, as in the pass that updates the weights (`both`); it uses batch
    statistics and moves nothing (`update`); or it uses the running ones, as in eval mode (`eval`). A method's default
    is what its authors' code does. `replays`: optimizer steps on every batch, one call of `step` each; with all images
    in one batch, the run then keeps every so many-th step.
    Raises ValueError for a setting out of range.
    """

    epsilon: float
    batchnorm: str = field(default="both", kw_only=True)
    replays: int = field(default=1, kw_only=True)
    norms: ClassVar[tuple[str, ...]] = ("linf",)  # the balls that it can keep to
    norm: str = field(default="linf", kw_only=True)
    bounds: Bounds = field(default=(0.0, 1.0), kw_only=True)

    def __post_init__(self):
        if self.norm not in self.norms:
            raise ValueError(
                f"it has no {NORMS.get(self.norm, self.norm)} ball: set norm={' or '.join(self.norms)}, and epsilon"
            )
        if self.batchnorm not in ("both", "update", "eval"):
            raise ValueError(f"batchnorm must be 'both', 'update' or 'eval', not {self.batchnorm!r}")
        if self.replays < 1:
            raise ValueError(f"replays must be at least 1, not {self.replays}")

    @property
    def attack(self) -> Attack | None:
        """What `perturb` comes down to, where that is an attack without state."""
        return None

    def setup(self, model: nn.Module, task: Task) -> None:
        """Allocate state before the first step of a run."""

    def start_phase(self, task: Task) -> None:
        """Before the first step with images of another size than until then: start afresh what is kept per image."""

    def start_epoch(self, epoch: int, rng: torch.Generator) -> None:
        """Before the first step of each epoch (from 1); `rng`: that of the epoch's batches."""

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None, state: Tensor | None = None) -> Tensor:
        """f_A: δ of the shape of `x`, with x + δ within the model's bounds, as the images are.

        `state`: what `image_state` gave for these images; unseen images have none, and it is taken as 0.
        """
        if self.attack is None:
            raise NotImplementedError(f"{type(self).__name__} must define perturb, or have an attack")
        return self.attack.generate(model, x, y, rng)

    def step(self, model: nn.Module, batch: Batch) -> StepResult:
        """Leave the gradients of one training step in the parameters' `.grad`, and update the method's own state."""
        with self.perturbation_pass(model):
            delta = self.perturb(model, batch.x, batch.y, batch.rng)
        return descend(model, (batch.x + delta).clamp(*self.bounds), batch.y)

    @contextmanager
    def perturbation_pass(self, model: nn.Module) -> Iterator[None]:
        """Around the passes that make the perturbation, for input gradients: BatchNorm does what `batchnorm` says."""
        with input_gradients_only(model), self.batchnorm_mode(model):
            yield

    @contextmanager
    def batchnorm_mode(self, model: nn.Module) -> Iterator[None]:
        """The same, but for passes whose gradients are functions of the weights, to be differentiated in turn."""
        if self.batchnorm == "both":
            yield
            return
        if self.batchnorm == "eval":
            with evaluating(model):
                yield
            return
        # Without tracking, BatchNorm uses batch statistics and leaves the running ones (and their count) alone.
        tracking: list[Any] = [m for m in model.modules() if getattr(m, "track_running_stats", False)]
        for module in tracking:
            module.track_running_stats = False
        try:
            yield
        finally:
            for module in tracking:
                module.track_running_stats = True

    def parameters(self) -> dict[str, dict[str, float]]:
        """Learned numbers to keep with every epoch: {group: {name: value}}; enough for `perturb`, and to plot."""
        return {}

    def load_parameters(self, parameters: dict[str, dict[str, float]]) -> None:
        """The inverse of `parameters`."""

    def image_state(self, index: Tensor) -> Tensor | None:
        """What is kept for these training images, un-augmented, (len(index), C, H, W); None if nothing is.

        It is stored with each epoch, rounded as `co_probe.store.rounding` says; resuming takes nothing from it.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs: nested dicts of tensors and numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


def descend(model: nn.Module, x: Tensor, y: Tensor) -> StepResult:
    """One forward and one backward pass at `x`, into every leaf's `.grad`."""
    logits = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    return StepResult(loss.detach(), (logits.detach().argmax(1) == y).sum())

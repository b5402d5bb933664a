"""The interface of training methods, and what they are given."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.attacks import Attack, Bounds, Rng
from co_probe.attacks.base import Model
from co_probe.config.labels import NORMS
from co_probe.data.augment import View
from co_probe.inference.forward import BATCHNORM, Forward


@dataclass(frozen=True)
class TrainingContext:
    """Facts that a method may need before training, for step counts and for state per image.

    Attributes:
        images: Number of training images.
        shape: (channels, height, width) of an image, without padding.
        padding: Width of the border that crops may reach into, in pixels.
        steps: Number of optimizer steps in the whole run, replays included.
        epsilon: ε of the run, after any warm-up, in pixel units.
        device: Where training takes place.
        rng: For initial values, on `device`.
        largest: Number of pixels of all padded training images where they are largest; 0 if they do not grow.
        epochs: Number of epochs in the whole run.
        watched: For methods that watch their own accuracy: a number n -> n images (n, C, H, W) without augmentation, or
            fewer, and their classes, on `device`, always the same; validation images if the run holds some out, else
            training images. None outside of a run.
    """

    images: int
    shape: tuple[int, int, int]
    padding: int
    steps: int
    epsilon: float
    device: torch.device
    rng: torch.Generator
    largest: int = 0
    epochs: int = 1
    watched: Callable[[int], tuple[Tensor, Tensor]] | None = None

    @property
    def store_shape(self) -> tuple[int, int, int, int]:
        """Shape of a tensor with a number for each pixel of each padded training image, for `View.take` and `put`."""
        channels, height, width = self.shape
        return self.images, channels, height + 2 * self.padding, width + 2 * self.padding

    def new_store(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Allocate a tensor of `store_shape`, not yet filled.

        Raises:
            ValueError: If the device does not have the memory for the largest one of the run.
        """
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
    """A batch of training images, and the settings that change from step to step.

    Attributes:
        x: Images (B, C, H, W), augmented, within the bounds of the data set.
        y: Classes, int64 (B,).
        view: Where in the padded training images `x` was cut out.
        epsilon: ε of this step, in pixel units; it may be warming up.
        lr_scale: Value of the learning-rate schedule, 0 to 1.
        rng: For the draws of this step, on the device of `x`.
        label_smoothing: Share of each label that `cross_entropy` spreads over all classes.
    """

    x: Tensor
    y: Tensor
    view: View
    epsilon: float
    lr_scale: float
    rng: torch.Generator
    label_smoothing: float = 0.0

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """The mean cross-entropy in nats that the weights descend, with smoothed labels.

        Args:
            logits: (B, classes).
        """
        return F.cross_entropy(logits, self.y, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class StepResult:
    """Statistics of a step on the images that the weights are updated with.

    Attributes:
        loss: Mean loss in nats, regularisers included, as a scalar tensor.
        correct: Number of images classified correctly, as a scalar tensor.
    """

    loss: Tensor
    correct: Tensor


@dataclass(eq=False, kw_only=True)
class Method:
    """A training method: how it makes a perturbation, and what it does with it.

    A new method is one file with a subclass. For a method that trains on the perturbations of an attack, `attack_at` is
    enough; otherwise it defines `perturb`, and if it does more with the perturbation also `step`. A training step is

        result = method.step(model, batch)  # leaves gradients
        optimizer.step()
        method.update()  # applies what the method learns itself

    Where several processes train together, gradients of weights and `to_average` are averaged over them between the
    first line and the second. Each process has images of its own, and their state per image, which it numbers from 0.

    Args:
        norm: The ball that perturbations stay in, one of the class's `norms`.
        bounds: Least and greatest pixel value.
        batchnorm: What BatchNorm does in the passes that make the perturbation: `both` uses batch statistics and moves
            the running ones, as the pass that updates the weights does; `update` uses batch statistics and moves
            nothing; `eval` uses the running ones, as in eval mode. A method's default is what its authors' code does.
        replays: Number of optimizer steps on every batch, one call of `step` each. The budget of a run counts passes,
            so it has fewer epochs.

    Raises:
        ValueError: If a setting is out of range.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)  # the balls that it is defined in
    decides_within_epochs: ClassVar[bool] = False  # by the accuracy of the model in eval mode
    norm: str = "linf"
    bounds: Bounds = (0.0, 1.0)
    batchnorm: str = "both"
    replays: int = 1

    def __post_init__(self) -> None:
        if self.norm not in self.norms:
            raise ValueError(
                f"it has no {NORMS.get(self.norm, self.norm)} ball: set norm={' or '.join(self.norms)}, and epsilon"
            )
        if self.batchnorm not in BATCHNORM:
            raise ValueError(f"batchnorm must be 'both', 'update' or 'eval', not {self.batchnorm!r}")
        check_positive(replays=self.replays)

    def attack_at(self, epsilon: float) -> Attack | None:
        """The attack that `perturb` comes down to at ε = `epsilon`; None if there is none."""
        return None

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Allocate state before the first step of a run."""
        self.start_stage(context)

    def start_stage(self, context: TrainingContext) -> None:
        """Allocate the state per image: before the first step, and again where images come to have another size."""

    def start_epoch(self, epoch: int, rng: torch.Generator) -> None:
        """Prepare for an epoch, numbered from 1; `rng` is that of its batches."""

    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        """The generator f_A: make δ at the current weights.

        Args:
            model: Classifier, an `nn.Module` or a `Forward`; used in the mode it is in.
            x: Images (B, C, H, W) within `bounds`; they are not checked, since on a GPU that means to wait for them.
            y: Classes (B,).
            epsilon: Norm bound, in pixel units.
            rng: Source of random numbers, on the device of `x`; the global one if None.
            state: What `image_state` returns for these images; None for unseen images, whose state is 0.

        Returns:
            δ, of the shape of `x`, with x + δ within `bounds`.
        """
        attack = self.attack_at(epsilon)
        if attack is None:
            raise NotImplementedError(f"{type(self).__name__} must define perturb or attack_at")
        return attack.generate(model, x, y, rng)

    def generator_at(self, epsilon: float) -> Callable[..., Tensor]:
        """f_A at ε = `epsilon` as a function (model, x, y, rng=None[, state=None]): the attack, where `perturb` is one.

        Equal attacks of two methods are equal objects.
        """
        attack = self.attack_at(epsilon) if type(self).perturb is Method.perturb else None
        return attack or partial(self.perturb, epsilon=epsilon)

    def step(self, model: Model, batch: Batch) -> StepResult:
        """Leave the gradients of a training step in `.grad`: of the weights, and of what the method learns itself.

        State per image, which no other process shares, may be changed here.

        Args:
            model: The classifier in train mode; in a run a `Forward`, else an `nn.Module` will do.
            batch: What to train on.
        """
        inner = self.perturbing(model)
        delta = self.perturb(inner, batch.x, batch.y, epsilon=batch.epsilon, rng=batch.rng)
        return forward_backward(model, self.clip(batch.x + delta), batch)

    def update(self) -> None:
        """Apply the gradients of what the method learns itself, left by the last `step`."""

    def to_average(self) -> Sequence[Tensor]:
        """What `update` takes from the last `step` that must be the same in all processes of a run.

        Gradients of learned step sizes, say, or what a step measured of its batch: floating-point tensors that are
        means over the images of a batch. They are averaged over all processes in place, before `update`.
        """
        return ()

    def perturbing(self, model: Model) -> Forward:
        """The model for the passes that make the perturbation, with `batchnorm` and without gradients of weights."""
        return Forward.of(model).for_perturbation(self.batchnorm)

    def clip(self, x: Tensor) -> Tensor:
        """The nearest images within `bounds`."""
        return x.clamp(*self.bounds)

    def parameters(self) -> dict[str, dict[str, float]]:
        """Learned numbers, stored with every epoch: {group: {name: value}}; enough for `perturb`, and to plot."""
        return {}

    def load_parameters(self, parameters: dict[str, dict[str, float]]) -> None:
        """Restore what `parameters` returned."""

    def image_state(self, index: Tensor) -> Tensor | None:
        """State of these training images, un-augmented, (len(index), C, H, W); None if the method has none.

        It is stored with each epoch, rounded as `co_probe.store.rounding` says; resuming does not use it.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs: nested dicts of tensors and numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


def forward_backward(model: Model, x: Tensor, batch: Batch) -> StepResult:
    """Add the gradients of the batch's cross-entropy at the images `x` to the `.grad` of every leaf."""
    logits = model(x)
    loss = batch.cross_entropy(logits)
    loss.backward()
    return StepResult(loss.detach(), (logits.detach().argmax(1) == batch.y).sum())


def check_positive(**settings: float | None) -> None:
    """Raise ValueError for the first of these settings that is neither None nor greater than 0."""
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be greater than 0, not {value:g}")


def check_not_negative(**settings: float | None) -> None:
    """Raise ValueError for the first of these settings that is negative."""
    for name, value in settings.items():
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must not be negative, and is {value:g}")

"""Interface of training methods and their arguments."""

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
    """Facts about a run that a method may need before training.

    Attributes:
        images: Number of training images.
        shape: (channels, height, width) of an image, without padding.
        padding: Number of pixels of padding on every side, for crops.
        steps: Number of optimizer steps in the whole run, replays included.
        epsilon: ε of the run, after any warm-up, in pixel units.
        device: Device of training.
        rng: Generator for initial values, on `device`.
        largest: Number of pixels of all padded training images at their largest size; 0 if it is constant.
        epochs: Number of epochs in the whole run.
        watched: Function for methods that monitor their accuracy: from a number n to at most n fixed images (n, C, H,
            W) without augmentation and their classes, on `device`; validation images if the run has some, else training
            images. None outside a run.
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
        """Shape of a tensor with one number per pixel of each padded training image, for `View.take` and `put`."""
        channels, height, width = self.shape
        return self.images, channels, height + 2 * self.padding, width + 2 * self.padding

    def new_store(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Allocate an uninitialised tensor of `store_shape`.

        Raises:
            ValueError: If the largest tensor of the run exceeds the memory of the device.
        """
        need = dtype.itemsize * max(self.largest, math.prod(self.store_shape))
        if self.device.type == "cuda":
            there = torch.cuda.get_device_properties(self.device).total_memory
        else:
            there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if need > there:
            raise ValueError(
                f"its state of {self.images} images takes {need / 1e9:.0f} GB, and there are "
                f"{there / 1e9:.0f} GB: choose a method without state per image, or APART with "
                "method.learn_initialisation=false"
            )
        return torch.empty(self.store_shape, dtype=dtype, device=self.device)


@dataclass(frozen=True)
class Batch:
    """A batch of training images, and settings that change per step.

    Attributes:
        x: Images (B, C, H, W), augmented, within the bounds of the data set.
        y: Classes, int64 (B,).
        view: Position of `x` in the padded training images.
        epsilon: ε of this step, in pixel units, including warm-up.
        lr_scale: Value of the learning-rate schedule, 0 to 1.
        rng: Generator of this step, on the device of `x`.
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
        """Compute the mean cross-entropy in nats that trains the weights, with smoothed labels.

        Args:
            logits: (B, classes).
        """
        return F.cross_entropy(logits, self.y, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class StepResult:
    """Statistics of a step on the images that update the weights.

    Attributes:
        loss: Mean loss in nats, regularisers included, as a scalar tensor.
        correct: Number of images classified correctly, as a scalar tensor.
    """

    loss: Tensor
    correct: Tensor


@dataclass(eq=False, kw_only=True)
class Method:
    """Base class of training methods.

    A new method is one file with a subclass. A method that trains on perturbations of an attack defines `attack_at`;
    others define `perturb`, and `step` if they need more than the cross-entropy at x + δ. A training step is

        result = method.step(model, batch)  # computes gradients
        optimizer.step()
        method.update()  # updates learned state of the method

    If several processes train together, weight gradients and `to_average` are averaged over them between the first and
    the second line. Each process has its own images and their per-image state, numbered from 0.

    Args:
        norm: Norm of the ball of perturbations, one of the class's `norms`.
        bounds: Least and greatest pixel value.
        batchnorm: Mode of BatchNorm in the passes that make the perturbation: `both` uses batch statistics and updates
            the running ones, like the pass that updates the weights; `update` uses batch statistics without updating
            the running ones; `eval` uses the running ones. Defaults are as in the authors' code.
        replays: Number of optimizer steps per batch, with one call of `step` each. The budget of a run counts passes,
            so it has fewer epochs.

    Raises:
        ValueError: If a setting is out of range.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)  # supported norms
    decides_within_epochs: ClassVar[bool] = False  # whether it evaluates the model in eval mode during an epoch
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
        """Return the attack that `perturb` is equivalent to at ε = `epsilon`; None if there is none."""
        return None

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Allocate state before the first step of a run."""
        self.start_stage(context)

    def start_stage(self, context: TrainingContext) -> None:
        """Allocate per-image state, before the first step and when images change their size."""

    def start_epoch(self, epoch: int, rng: torch.Generator) -> None:
        """Prepare for an epoch, numbered from 1; `rng` is the generator of its batches."""

    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        """Make δ at the current weights: the generator f_A.

        Args:
            model: Classifier, an `nn.Module` or a `Forward`; used in the mode it is in.
            x: Images (B, C, H, W) within `bounds`; they are not checked, which would synchronise a GPU.
            y: Classes (B,).
            epsilon: Norm bound, in pixel units.
            rng: Source of random numbers, on the device of `x`; the global one if None.
            state: Result of `image_state` for these images; None for unseen images, whose state is 0.

        Returns:
            δ, of the shape of `x`, with x + δ within `bounds`.
        """
        attack = self.attack_at(epsilon)
        if attack is None:
            raise NotImplementedError(f"{type(self).__name__} must define perturb or attack_at")
        return attack.generate(model, x, y, rng)

    def generator_at(self, epsilon: float) -> Callable[..., Tensor]:
        """Return f_A at ε = `epsilon` as a function (model, x, y, rng=None[, state=None]).

        It is the attack if `perturb` is one; equal attacks of two methods compare equal.
        """
        attack = self.attack_at(epsilon) if type(self).perturb is Method.perturb else None
        return attack or partial(self.perturb, epsilon=epsilon)

    def step(self, model: Model, batch: Batch) -> StepResult:
        """Compute the gradients of a training step into `.grad`, for weights and learned state of the method.

        Per-image state, which is not shared with other processes, may be changed here.

        Args:
            model: The classifier in train mode, a `Forward` in a run, else also an `nn.Module`.
            batch: The batch.
        """
        inner = self.perturbing(model)
        delta = self.perturb(inner, batch.x, batch.y, epsilon=batch.epsilon, rng=batch.rng)
        return forward_backward(model, self.clip(batch.x + delta), batch)

    def update(self) -> None:
        """Update learned state of the method with the gradients of the last `step`."""

    def to_average(self) -> Sequence[Tensor]:
        """Return tensors of the last `step` that `update` needs to be equal in all processes of a run.

        These are floating-point means over the images of a batch, such as gradients of learned step sizes or measured
        quantities. They are averaged over all processes in place before `update`.
        """
        return ()

    def perturbing(self, model: Model) -> Forward:
        """Return the model for making perturbations, with mode `batchnorm` and without weight gradients."""
        return Forward.of(model).for_perturbation(self.batchnorm)

    def clip(self, x: Tensor) -> Tensor:
        """Clip images to `bounds`."""
        return x.clamp(*self.bounds)

    def parameters(self) -> dict[str, dict[str, float]]:
        """Return learned numbers to store with every epoch, {group: {name: value}}, for `perturb` and plots."""
        return {}

    def load_parameters(self, parameters: dict[str, dict[str, float]]) -> None:
        """Restore what `parameters` returned."""

    def image_state(self, index: Tensor) -> Tensor | None:
        """Return the state of these training images without augmentation, (len(index), C, H, W), or None.

        It is stored with each epoch, rounded by `co_probe.store.rounding`; resuming does not use it.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the state for resuming: nested dicts of tensors and numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


def forward_backward(model: Model, x: Tensor, batch: Batch) -> StepResult:
    """Backpropagate the cross-entropy of a batch at the images `x`."""
    logits = model(x)
    loss = batch.cross_entropy(logits)
    loss.backward()
    return StepResult(loss.detach(), (logits.detach().argmax(1) == batch.y).sum())


def check_positive(**settings: float | None) -> None:
    """Raise ValueError for the first setting that is neither None nor greater than 0."""
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be greater than 0, not {value:g}")


def check_not_negative(**settings: float | None) -> None:
    """Raise ValueError for the first negative setting."""
    for name, value in settings.items():
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must not be negative, and is {value:g}")

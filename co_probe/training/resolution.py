"""Training images of each epoch, possibly growing by resolution stage."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from co_probe.config import Config
from co_probe.data.augment import View, pad_images, random_view
from co_probe.data.dataset import Dataset, to_unit
from co_probe.errors import UserError
from co_probe.methods.base import Method, TrainingContext
from co_probe.numerics.memory import require_memory
from co_probe.numerics.rng import derive_seed, make_rng
from co_probe.training.group import ALONE, Group


@dataclass(frozen=True, eq=False)
class Stage:
    """Epochs with images and batches of one size.

    Attributes:
        images: (n, channels, height + 2 `padding`, width + 2 `padding`), on the training device or on the disk.
        numbers: Numbers of the images of this process, if `images` are all on the disk; else None.
        shape: (channels, height, width) of the crops.
        padding: Number of pixels of padding on every side, for crops.
        batch_size: Number of images per batch.
        steps: Number of optimizer steps per epoch.
    """

    images: Tensor
    numbers: Tensor | None
    shape: tuple[int, int, int]
    padding: int
    batch_size: int
    steps: int


class ResolutionStages:
    """Training images of each epoch, in batches.

    Without `config.resolution_stages` there is one stage: the padded images of the data set on `device`. Crops of
    larger images work like crops of padded ones, with pixels instead of zeros, so `View` and `TrainingContext.padding`
    apply to both. An epoch with `replays` passes belongs to the stage of its first pass; a stage in which no epoch
    starts is skipped.

    Args:
        config: Settings of the run.
        data: Data set of the run.
        epochs: Number of epochs to train.
        replays: Number of optimizer steps per batch.
        device: Device of training.
        held_out: Sorted numbers of held-out training images, or None.
        group: Processes that train together. Each has a fixed set of images, every `size`-th one, from which it draws
            its part of each batch, and per-image state of these images only.

    Attributes:
        count: Number of training images of all processes.

    Raises:
        UserError: `config` has stages and the data set has images of one size, or vice versa.
    """

    def __init__(
        self,
        config: Config,
        data: Dataset,
        epochs: int,
        replays: int,
        device: torch.device,
        held_out: np.ndarray | None = None,
        group: Group = ALONE,
    ):
        self._seed, self._flip, self._device = config.seed, config.augmentation.flip, device
        self._epsilon = config.epsilon
        self._group, self._replays = group, replays
        kept = np.setdiff1d(np.arange(len(data.train_y)), [] if held_out is None else held_out)
        own = (
            torch.from_numpy(kept[group.rank :: group.size].copy())
            if group.size > 1
            else torch.arange(len(data.train_y))
        )
        self._own, self._labels = own.to(device), data.train_y[own].to(device)
        # Positions in `own` of training images.
        self._kept = torch.from_numpy(kept if group.size == 1 else np.arange(len(own))).to(device)
        self._data, self._for_watching = data, kept if held_out is None else held_out
        self.count = count = len(kept)

        def stage(
            images: Tensor, numbers: Tensor | None, shape: tuple[int, int, int], padding: int, batch_size: int
        ) -> Stage:
            steps = math.ceil(count / batch_size)
            if count // group.size < steps:
                raise UserError(
                    f"batch_size = {batch_size} of {count} images is too small for {group.size} processes: every one "
                    "needs an image of each batch"
                )
            return Stage(images, numbers, shape, padding, batch_size, steps * replays)

        if bool(config.resolution_stages) != (data.train_at is not None):
            raise UserError(
                f"data set {config.data.name} has images of one size, and no resolution stages"
                if config.resolution_stages
                else f"data set {config.data.name} is trained on in resolution stages: set resolution_stages, as the "
                "preset imagenet does"
            )
        if data.train_at is None:
            padding = config.augmentation.padding
            channels, height, width = data.shape
            padded = channels * (height + 2 * padding) * (width + 2 * padding)
            require_memory(
                len(data.train_y) * padded * data.train_x.element_size(),
                f"augmentation.padding = {padding} of {len(data.train_y)} images",
                "choose a smaller one",
            )
            mine = data.train_x if group.size == 1 else data.train_x[own]
            images = pad_images(mine.to(device), padding)
            self._stages = [stage(images, None, data.shape, padding, config.batch_size)] * epochs
            return
        stages = config.resolution_stages
        ends = [sum(each.epochs for each in stages[: number + 1]) for number in range(len(stages))]
        numbers = [next(n for n, end in enumerate(ends) if epoch * replays < end) for epoch in range(epochs)]
        made = {}
        for number in sorted(set(numbers)):
            asked = stages[number]
            shape, padding = (data.shape[0], asked.crop, asked.crop), (asked.size - asked.crop) // 2
            images, batch_size = data.train_at(asked.size), asked.batch_size or config.batch_size
            made[number] = stage(images, None if group.size == 1 else self._own, shape, padding, batch_size)
        self._stages = [made[number] for number in numbers]

    def stage(self, epoch: int) -> Stage:
        """Return the stage of `epoch`, from 1."""
        return self._stages[epoch - 1]

    @property
    def constant(self) -> Stage | None:
        """The stage of all epochs; None if there are several."""
        return self._stages[0] if len(set(map(id, self._stages))) == 1 else None

    def setup(self, method: Method, model: torch.nn.Module) -> None:
        """Let `method` allocate its state before the first step.

        Raises:
            UserError, ValueError: The method cannot train on these images.
        """
        method.setup(model, self._context(1, self._rng()))

    def go_on(self, method: Method, epoch: int) -> None:
        """Let a newly set-up `method` allocate the state that it had after `epoch`."""
        if self.stage(epoch) is not self.stage(1):
            method.start_stage(self._context(epoch, self._rng()))

    def enter(self, method: Method, epoch: int) -> None:
        """Notify `method` before `epoch` if a new stage starts."""
        if epoch > 1 and self.stage(epoch) is not self.stage(epoch - 1):
            method.start_stage(self._context(epoch, self._rng(epoch)))

    def sizes(self, epoch: int) -> list[int]:
        """Return the number of images of each batch of `epoch`, over all processes."""
        stage, size = self.stage(epoch), self._group.size
        steps = stage.steps // self._replays
        if size == 1:
            return [min(stage.batch_size, self.count - start) for start in range(0, self.count, stage.batch_size)]
        shares = [len(range(rank, self.count, size)) for rank in range(size)]
        return [sum(share // steps + (step < share % steps) for share in shares) for step in range(steps)]

    def image_state(self, method: Method, numbers: Tensor) -> Tensor | None:
        """Collect the state of these training images, (n, C, H, W), from all processes; None if there is none."""
        if self._group.size == 1:
            return method.image_state(numbers)
        here = torch.isin(numbers, self._own)
        state = method.image_state(torch.searchsorted(self._own, numbers[here]))
        if state is None:
            return None
        whole = state.new_zeros(len(numbers), *state.shape[1:])
        whole[here] = state
        self._group.sum(whole)
        return whole

    def batches(self, epoch: int, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor, View]]:
        """Shuffle the images of `epoch`, and crop and flip them batch by batch.

        Args:
            epoch: Number of the epoch, from 1.
            rng: Generator for order, crops and flips.

        Returns:
            Floating-point images (B, C, H, W), classes (B,), and positions of the crops. Each process gets its part of
            a batch; parts differ by at most one image.
        """
        stage = self.stage(epoch)
        order = self._kept[torch.randperm(len(self._kept), generator=rng, device=self._device)]
        alone = self._group.size == 1
        parts = order.split(stage.batch_size) if alone else order.tensor_split(stage.steps // self._replays)

        def each() -> Iterator[tuple[Tensor, Tensor, View]]:
            for index in parts:
                view = random_view(index, stage.shape[1:], stage.padding, self._flip, rng)
                shown = view if stage.numbers is None else replace(view, index=stage.numbers[index])
                yield to_unit(shown.take(stage.images)), self._labels[index], view

        return each()

    def _watched(self, count: int) -> tuple[Tensor, Tensor]:
        """Implement `TrainingContext.watched`."""
        index = np.random.default_rng(derive_seed(0, "watched")).permutation(self._for_watching)[:count]
        return to_unit(self._data.train_x[index]).to(self._device), self._data.train_y[index].to(self._device)

    def _rng(self, *numbers: int) -> torch.Generator:
        """Make the generator of a method's setup, for images of this process."""
        return make_rng(self._device, self._seed, "method", *numbers, *self._group.salt)

    def _context(self, epoch: int, rng: torch.Generator) -> TrainingContext:
        here, count = self.stage(epoch), len(self._own)
        steps = sum(stage.steps for stage in self._stages)
        largest = max(count * math.prod(stage.images.shape[1:]) for stage in self._stages)
        epochs = len(self._stages)
        return TrainingContext(
            count,
            here.shape,
            here.padding,
            steps,
            self._epsilon,
            rng.device,
            rng,
            largest,
            epochs=epochs,
            watched=self._watched,
        )

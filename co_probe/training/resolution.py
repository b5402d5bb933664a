"""Which images an epoch trains on: the same throughout, or larger ones from resolution stage to resolution stage."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class Stage:
    """A stretch of epochs with images of one size, in batches of one size.

    Attributes:
        images: (n, channels, height + 2 `padding`, width + 2 `padding`), on the training device or on the disk.
        shape: (channels, height, width) of the crops.
        padding: Width of the border that crops may reach into, in pixels.
        batch_size: Number of images per batch.
        steps: Number of optimizer steps per epoch.
    """

    images: Tensor
    shape: tuple[int, int, int]
    padding: int
    batch_size: int
    steps: int


class ResolutionStages:
    """The training images of each epoch, in batches.

    Without `config.resolution_stages` there is one stage: the images of the data set, padded, on `device`. Crops of
    stored images work like those of padded ones, with pixels of the image in place of zeros: `View` and
    `TrainingContext.padding` hold for both. An epoch that goes through its batches `replays` times belongs to the stage
    that its first pass lies in; a stage in which no epoch begins is left out.

    Args:
        config: The settings of the run.
        data: Its data set.
        epochs: Number of epochs that are trained.
        replays: Number of optimizer steps on every batch.
        device: Where training takes place.
        held_out: Numbers of training images that are not trained on, sorted, or None.

    Attributes:
        count: Number of images that are trained on.

    Raises:
        UserError: The data set has images of one size and `config` has stages, or the other way round.
    """

    def __init__(
        self,
        config: Config,
        data: Dataset,
        epochs: int,
        replays: int,
        device: torch.device,
        held_out: np.ndarray | None = None,
    ):
        self._seed, self._flip, self._device = config.seed, config.augmentation.flip, device
        self._epsilon = config.epsilon
        self._labels = data.train_y.to(device)
        kept = np.setdiff1d(np.arange(len(data.train_y)), [] if held_out is None else held_out)
        self._kept = torch.from_numpy(kept).to(device)
        self._data, self._for_watching = data, kept if held_out is None else held_out
        self.count = count = len(kept)

        def stage(images: Tensor, shape: tuple[int, int, int], padding: int, batch_size: int) -> Stage:
            return Stage(images, shape, padding, batch_size, math.ceil(count / batch_size) * replays)

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
            images = pad_images(data.train_x.to(device), padding)
            self._stages = [stage(images, data.shape, padding, config.batch_size)] * epochs
            return
        stages = config.resolution_stages
        ends = [sum(each.epochs for each in stages[: number + 1]) for number in range(len(stages))]
        numbers = [next(n for n, end in enumerate(ends) if epoch * replays < end) for epoch in range(epochs)]
        made = {}
        for number in sorted(set(numbers)):
            asked = stages[number]
            shape, padding = (data.shape[0], asked.crop, asked.crop), (asked.size - asked.crop) // 2
            made[number] = stage(data.train_at(asked.size), shape, padding, asked.batch_size or config.batch_size)
        self._stages = [made[number] for number in numbers]

    def stage(self, epoch: int) -> Stage:
        """Return the stage of `epoch`, from 1."""
        return self._stages[epoch - 1]

    @property
    def constant(self) -> Stage | None:
        """The stage of all epochs, or None if there are several."""
        return self._stages[0] if len(set(map(id, self._stages))) == 1 else None

    def setup(self, method: Method, model: torch.nn.Module) -> None:
        """Let `method` allocate its state before the first step.

        Raises:
            UserError, ValueError: It cannot train on these images.
        """
        method.setup(model, self._context(1, make_rng(self._device, self._seed, "method")))

    def go_on(self, method: Method, epoch: int) -> None:
        """Let `method`, newly set up, make room for the state that it had after `epoch`."""
        if self.stage(epoch) is not self.stage(1):
            method.start_stage(self._context(epoch, make_rng(self._device, self._seed, "method")))

    def enter(self, method: Method, epoch: int) -> None:
        """Tell `method`, before `epoch`, if a new stage begins with it."""
        if epoch > 1 and self.stage(epoch) is not self.stage(epoch - 1):
            method.start_stage(self._context(epoch, make_rng(self._device, self._seed, "method", epoch)))

    def batches(self, epoch: int, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor, View]]:
        """Shuffle the images of `epoch` at once, and crop and flip them batch by batch.

        Args:
            epoch: Its number, from 1.
            rng: For the order, the crops and the flips.

        Returns:
            Images (B, C, H, W), floating point; classes (B,); and where the images were cut out.
        """
        stage = self.stage(epoch)
        order = self._kept[torch.randperm(self.count, generator=rng, device=self._device)]

        def each() -> Iterator[tuple[Tensor, Tensor, View]]:
            for index in order.split(stage.batch_size):
                view = random_view(index, stage.shape[1:], stage.padding, self._flip, rng)
                yield to_unit(view.take(stage.images)), self._labels[index], view

        return each()

    def _watched(self, count: int) -> tuple[Tensor, Tensor]:
        """`TrainingContext.watched`."""
        index = np.random.default_rng(derive_seed(0, "watched")).permutation(self._for_watching)[:count]
        return to_unit(self._data.train_x[index]).to(self._device), self._data.train_y[index].to(self._device)

    def _context(self, epoch: int, rng: torch.Generator) -> TrainingContext:
        here = self.stage(epoch)
        steps, largest = sum(s.steps for s in self._stages), max(s.images.numel() for s in self._stages)
        return TrainingContext(
            len(here.images),
            here.shape,
            here.padding,
            steps,
            self._epsilon,
            rng.device,
            rng,
            largest,
            epochs=len(self._stages),
            watched=self._watched,
        )

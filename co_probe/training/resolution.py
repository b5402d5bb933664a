"""Which images an epoch trains on: the same all along, or larger ones from phase to phase."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from co_probe.config import Config
from co_probe.data.augment import pad_images
from co_probe.data.dataset import Dataset
from co_probe.errors import UserError
from co_probe.methods.base import Task


@dataclass(frozen=True, eq=False)
class Phase:
    """A stretch of epochs with images of one size, in batches of one size.

    `images`: (n, channels, height + 2 `padding`, width + 2 `padding`), on the training device or mapped from the disk;
    `shape`: (channels, height, width) of the crops; `steps`: optimizer steps in an epoch.
    """

    images: Tensor
    shape: tuple[int, int, int]
    padding: int
    batch_size: int
    steps: int


class Plan:
    """The phase of each epoch. Without `config.phases` there is one: the data set's images, padded, on `device`.

    Crops of stored images are those of padded ones, with pixels of the image where these have zeros: whatever is kept
    per image, `View` and `Task.padding` hold for both. An epoch that goes through its batches `replays` times belongs
    to the phase that its first pass lies in; a phase in which none begins is passed over.
    Raises UserError if the data set does not come in sizes and `config` has phases, or the other way round.
    """

    def __init__(self, config: Config, data: Dataset, epochs: int, replays: int, device: torch.device):
        def phase(images: Tensor, shape: tuple[int, int, int], padding: int, batch_size: int) -> Phase:
            return Phase(images, shape, padding, batch_size, math.ceil(len(data.train_y) / batch_size) * replays)

        if bool(config.phases) != (data.train_at is not None):
            raise UserError(
                f"data set {config.data.name} has images of one size, and no phases"
                if config.phases
                else f"data set {config.data.name} is trained on in phases: set them, as the preset imagenet does"
            )
        if data.train_at is None:
            padding = config.augmentation.padding
            images = pad_images(data.train_x.to(device), padding)
            self._phases = [phase(images, data.shape, padding, config.batch_size)] * epochs
            return
        ends = [sum(p.epochs for p in config.phases[: number + 1]) for number in range(len(config.phases))]
        numbers = [next(n for n, end in enumerate(ends) if epoch * replays < end) for epoch in range(epochs)]
        made = {}
        for number in sorted(set(numbers)):
            asked = config.phases[number]
            shape, padding = (data.shape[0], asked.crop, asked.crop), (asked.size - asked.crop) // 2
            made[number] = phase(data.train_at(asked.size), shape, padding, asked.batch_size or config.batch_size)
        self._phases = [made[number] for number in numbers]

    def phase(self, epoch: int) -> Phase:
        """The phase of `epoch`, from 1."""
        return self._phases[epoch - 1]

    def task(self, epoch: int, rng: torch.Generator) -> Task:
        """What the method is told before `epoch`."""
        here = self.phase(epoch)
        steps, largest = sum(p.steps for p in self._phases), max(p.images.numel() for p in self._phases)
        return Task(len(here.images), here.shape, here.padding, steps, rng.device, rng, largest)

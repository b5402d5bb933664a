"""What is measured: a preset's model and methods, on its images or on random ones in their place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from co_probe.benchmarks.machine import device_name
from co_probe.benchmarks.work import Work, work
from co_probe.config import Config, presets
from co_probe.data import DATA
from co_probe.data.augment import pad_images, random_view
from co_probe.data.dataset import Dataset, to_unit
from co_probe.errors import UserError
from co_probe.inference.execution import compiling, execute, resolve
from co_probe.methods import METHODS
from co_probe.methods.base import Batch, TrainingContext
from co_probe.numerics.rng import derive_seed, make_rng
from co_probe.runs.build import make_data, make_method, make_model, pick_device
from co_probe.training.loop import train_step
from co_probe.training.memory import keep_freed_memory

CLEAN = "standard"
# (training images, classes) of data sets of 32×32 colour images that are not on every machine
DOWNLOADS = {"cifar10": (50_000, 10), "cifar100": (50_000, 100), "svhn": (73_257, 10)}


@dataclass(frozen=True, eq=False)
class Subject:
    """What a benchmark was asked for; see `bench`."""

    preset: str
    settings: dict[str, Any]
    asked: Sequence[str] | None
    repeats: int
    device_asked: str
    folder: Path
    progress: Callable[[str, int, int], None] | None
    compile: bool = False

    def __post_init__(self):
        keep_freed_memory()
        for name in self.asked or ():
            METHODS.check(name)
        if self.asked is not None and not self.asked:
            raise UserError("a benchmark needs at least one method")

    def methods(self, default: Sequence[str]) -> list[str]:
        """The methods to measure, sorted: those that were asked for, or else `default`."""
        return sorted(set(default if self.asked is None else self.asked))

    def config(self, method: str = CLEAN) -> Config:
        """The settings of a run of `method`; those of methods hold for the ones that were asked for."""
        asked = method in (self.asked or METHODS)
        given = self.settings if asked else {key: part for key, part in self.settings.items() if key != "method"}
        return presets.configure(self.preset, method, given)

    def report(self, what: str) -> Callable[[int, int], None] | None:
        """What to tell of finished and planned turns in the part `what`."""
        told = self.progress
        return None if told is None else lambda done, planned: told(what, done, planned)

    @cached_property
    def device(self) -> torch.device:
        return pick_device(self.device_asked)

    @cached_property
    def random(self) -> bool:
        """Whether random images stand in for those of the preset."""
        DATA.check(self.config().data.name)
        return self.config().data.name in DOWNLOADS

    @cached_property
    def data(self) -> Dataset:
        """The preset's images, or as many random bytes: what they show makes no difference to speed."""
        config = self.config()
        if not self.random:
            return make_data(config)
        count, classes = DOWNLOADS[config.data.name]
        count = min(count, config.data.settings.get("limit", count))
        rng = make_rng("cpu", config.seed, "bench images")
        x = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=rng)
        y = torch.randint(classes, (count,), generator=rng)
        names = tuple(map(str, range(classes)))
        return Dataset(x, y, x[:1000], y[:1000], names, mean=(0.5,) * 3, std=(0.29,) * 3)

    @property
    def precision(self) -> str:
        """What the network computes in, as a run of the preset on this device would."""
        return resolve(self.config().precision, self.device)

    @property
    def image_bytes(self) -> int:
        """What the training images take, padded, as the training loop holds them on the device."""
        (channels, height, width), padding = self.data.shape, self.config().augmentation.padding
        pixels = channels * (height + 2 * padding) * (width + 2 * padding)
        return len(self.data.train_y) * pixels * self.data.train_x.element_size()

    def model(self, compiled: bool = False) -> nn.Module:
        """The preset's model, always with the same initial weights."""
        config = self.config()
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(config.seed, "initial weights"))
            model = make_model(config, self.data).to(self.device)
        execute(model, self.precision, compiled=compiled)
        return model

    @cached_property
    def clean(self) -> Work:
        """The work of a forward pass over a batch."""
        trainee = Trainee(self, CLEAN)
        return work(trainee.forward)

    @property
    def circumstances(self) -> dict[str, Any]:
        """What every number depends on, to stand beside it."""
        config = self.config()
        return {
            "preset": self.preset,
            "model": config.model.name,
            "data": config.data_title,
            "images": "random" if self.random else "real",
            "batch_size": config.batch_size,
            "dtype": str(self.clean.dtype).removeprefix("torch."),
            "device": device_name(self.device),
            "torch": torch.__version__,
        }


class Trainee:
    """A method in training, always on the same batch of images.

    `learning_rate`: 0 keeps weights as they are, and so every repeat the same; it costs what any other does.
    `compiled`: through torch.compile, as a run with `compile` is.
    Raises UserError if the method cannot be set up.
    """

    def __init__(self, subject: Subject, method: str, learning_rate: float = 0.0, compiled: bool = False):
        self.config, self.learning_rate = subject.config(method), learning_rate
        data, device, padding = subject.data, subject.device, self.config.augmentation.padding
        self.rng = make_rng(device, self.config.seed, "bench")
        self.model = subject.model(compiled).train()
        self.method = make_method(self.config, data.bounds)
        count = len(data.train_y)
        try:
            context = TrainingContext(count, data.shape, padding, 1000, self.config.epsilon, device, self.rng)
            self.method.setup(self.model, context)
        except ValueError as error:
            raise UserError(f"method {method}: {error}") from error
        self.method.start_epoch(1, self.rng)
        optimizer = self.config.optimizer
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.0, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay
        )
        self.show(data, torch.arange(min(self.config.batch_size, count), device=device))

    def show(self, data: Dataset, index: torch.Tensor) -> None:
        """Make these training images the batch; `index` on the training device."""
        padding, flip = self.config.augmentation.padding, self.config.augmentation.flip
        view = random_view(index, data.shape[1:], padding, flip, self.rng)
        within = replace(view, index=torch.arange(len(index), device=index.device))
        images = pad_images(data.train_x[index.cpu()], padding).to(index.device)
        x, y = to_unit(within.take(images)), data.train_y[index.cpu()].to(index.device)
        self.batch = Batch(x, y, view, self.config.epsilon, 1.0, self.rng)

    def step(self) -> None:
        with compiling(self.model):
            train_step(self.model, self.method, self.optimizer, self.batch, self.learning_rate)

    @torch.no_grad()
    def forward(self) -> None:
        self.model(self.batch.x)

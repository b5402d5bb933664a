"""Model, images and methods of a benchmark."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from co_probe.benchmarks.measures import Action, interleaved, side_by_side
from co_probe.config import Config, presets
from co_probe.data.dataset import Dataset
from co_probe.errors import UserError
from co_probe.inference.execution import execute, resolve
from co_probe.inference.forward import Forward
from co_probe.methods import METHODS
from co_probe.methods.base import Batch
from co_probe.numerics.rng import derive_seed, make_rng
from co_probe.runs.build import epoch_count, make_data, make_method, make_model, pick_device
from co_probe.training.loop import train_step
from co_probe.training.memory import keep_freed_memory
from co_probe.training.optimizers import make_optimizer
from co_probe.training.resolution import ResolutionStages
from co_probe.training.state import environment

CLEAN = "standard"
# (training images, classes) of data sets of 32×32 colour images that may need a download
DOWNLOADS = {"cifar10": (50_000, 10), "cifar100": (50_000, 100), "svhn": (73_257, 10)}


@dataclass(frozen=True, eq=False)
class Setup:
    """Arguments of `co_probe.bench`, and derived objects."""

    preset: str
    settings: dict[str, Any]
    asked: Sequence[str] | None
    repeats: int
    device_name: str
    folder: Path
    compile: bool
    progress: Callable[[str, int, int], None] | None

    def __post_init__(self) -> None:
        if self.asked is not None and not self.asked:
            raise UserError("a benchmark needs at least one method")
        if self.device.type == "cpu":
            keep_freed_memory()

    def methods(self, default: Sequence[str]) -> list[str]:
        """Return the methods to measure, sorted; `default` if none are given."""
        return sorted(set(default if self.asked is None else self.asked))

    def config(self, method: str = CLEAN) -> Config:
        """Make the settings of a run of `method`; settings of methods apply to the given methods."""
        ours = method in (self.asked or METHODS)
        given = self.settings if ours else {key: value for key, value in self.settings.items() if key != "method"}
        return presets.configure(self.preset, method, given)

    def times(self, label: str, actions: Mapping[str, Action]) -> dict[str, np.ndarray]:
        """Measure seconds of each action, (repeats,), in turns."""
        return interleaved(actions, self.repeats, partial(self.progress, label) if self.progress else None)

    def step_times(self, label: str, steps: Mapping[str, Action], block: int) -> dict[str, np.ndarray]:
        """Measure seconds of `block` repetitions of each step, (repeats,); processor time on a CPU."""
        if self.device.type == "cpu":
            return side_by_side(steps, self.repeats, block, partial(self.progress, label) if self.progress else None)
        return self.times(label, {name: partial(_repeat, step, block) for name, step in steps.items()})

    @cached_property
    def device(self) -> torch.device:
        """Device of all measurements."""
        return pick_device(self.device_name)

    @cached_property
    def data(self) -> Dataset:
        """Data set of the preset; random images of the same shape instead of one that needs a download."""
        config = self.config()
        if config.data.name not in DOWNLOADS:
            return make_data(config)
        count, classes = DOWNLOADS[config.data.name]
        count = min(count, config.data.settings.get("limit", count))
        rng = make_rng("cpu", config.seed, "bench images")
        x = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=rng)
        y = torch.randint(classes, (count,), generator=rng)
        return Dataset(x, y, x[:1000], y[:1000], tuple(map(str, range(classes))), mean=(0.5,) * 3, std=(0.29,) * 3)

    def trainer(self, name: str, *, compiled: bool = False) -> "Trainer":
        """Make a `Trainer` with a method on this data.

        Raises:
            UserError: The method cannot be set up.
        """
        return Trainer(self.config(name), self.data, self.device, compiled=compiled)

    @property
    def description(self) -> dict[str, Any]:
        """Return the conditions of the measurements, to store with them."""
        config = self.config()
        return {
            "preset": self.preset,
            "model": config.model.name,
            "data": config.data_title,
            "images": "random" if config.data.name in DOWNLOADS else "real",
            "batch_size": config.batch_size,
            "dtype": resolve(config.precision, self.device),
            "device": environment(self.device, config.precision)["device"],
            "torch": torch.__version__,
        }


def _repeat(step: Action, count: int) -> None:
    for _ in range(count):
        step()


class Trainer:
    """Trains with a method on one batch at a learning rate of 0, so that all steps are equal.

    Args:
        config: Settings of a run.
        data: Data set of the run.
        device: Device of training.
        compiled: Use torch.compile.

    Raises:
        UserError: If the method cannot be set up.
    """

    def __init__(self, config: Config, data: Dataset, device: torch.device, *, compiled: bool = False):
        self.config = config
        torch.manual_seed(derive_seed(config.seed, "initial weights"))
        self.model = make_model(config, data).to(device).train()
        self.precision = resolve(config.precision, device)
        execute(self.model, self.precision, compiled=compiled)
        self.trained = Forward(self.model, compiled=compiled)
        self.method = make_method(config, data.bounds)
        stages = ResolutionStages(config, data, epoch_count(config), self.method.replays, device)
        try:
            stages.setup(self.method, self.model)
        except ValueError as error:
            raise UserError(f"method {config.method.name}: {error}") from error
        self.steps_per_epoch = stages.stage(1).steps
        rng = make_rng(device, config.seed, "bench")
        self.batch = Batch(*next(stages.batches(1, rng)), epsilon=config.epsilon, lr_scale=1.0, rng=rng)
        self.method.start_epoch(1, rng)
        self.optimizer = make_optimizer(config.optimizer, self.model.parameters())

    def step(self) -> None:
        """Take a training step."""
        train_step(self.trained, self.method, self.optimizer, self.batch, 0.0)

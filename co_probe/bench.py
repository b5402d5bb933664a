"""What a training step of each method costs on this machine, relative to clean training."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from co_probe import presets
from co_probe.build import make_data, make_method, make_model, pick_device
from co_probe.config import Config
from co_probe.data.augment import pad_images, random_view
from co_probe.data.dataset import to_unit
from co_probe.methods import METHODS
from co_probe.methods.base import Batch, Task
from co_probe.rng import make_rng
from co_probe.training.loop import train_step

CLEAN = "standard"
WARM_UP = 3  # steps before anything is measured


@dataclass
class _Stepper:
    """A method in training, always on the same batch of real images."""

    config: Config
    device: torch.device

    def __post_init__(self):
        data, config, padding = make_data(self.config), self.config, self.config.augmentation.padding
        rng = make_rng(self.device, config.seed, "bench")
        self.model = make_model(config, data).to(self.device).train()
        self.method = make_method(config)
        count = len(data.train_y)
        self.method.setup(self.model, Task(count, data.shape, padding, 1000, self.device, rng))
        self.method.start_epoch(1, rng)
        # Weights that do not move keep every repeat the same: a learning rate of 0 costs what any other does.
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=config.optimizer.momentum)
        index = torch.arange(min(config.batch_size, count), device=self.device)
        images = pad_images(data.train_x[index.cpu()], padding).to(self.device)
        view = random_view(index, data.shape[1:], padding, config.augmentation.flip, rng)
        self.batch = Batch(to_unit(view.take(images)), data.train_y[index.cpu()].to(self.device), view, 1.0, rng)

    def step(self) -> None:
        train_step(self.model, self.method, self.optimizer, self.batch, 0.0)

    def seconds(self) -> float:
        self._wait()
        started = time.perf_counter()
        self.step()
        self._wait()
        return time.perf_counter() - started

    @torch.no_grad()
    def forward(self) -> None:
        self.model(self.batch.x)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Arithmetic(TorchDispatchMode):
    """Counts floating-point operations by PyTorch's own formulas. (Its FlopCounterMode cannot see `autograd.grad`.)"""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops(act: Callable[[], Any]) -> int:
    """The arithmetic of a call, in convolutions and matrix products."""
    with _Arithmetic() as arithmetic:
        act()
    return arithmetic.total


def bench(
    methods: Sequence[str] | None = None,
    *,
    preset: str = "digits",
    settings: dict[str, Any] | None = None,
    repeats: int = 20,
    device: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Time a training step of each method, in turn, `repeats` times, so that a machine's slow moments strike all alike.

    `methods`: registered names, all that keep to the preset's ball if None; clean training is always among them.
    Columns: `method`; `seconds` of a step (median); `images_per_second`; `ratio`, the median over turns of its time to
    clean training's; `passes`, the arithmetic of its step in forward passes (clean training: 3); `gflops_per_second`,
    counted in convolutions and matrix products. Raises UserError for an unknown method, preset or setting.
    """
    norm = presets.configure(preset, CLEAN, settings or {}).norm
    chosen = methods or [name for name in METHODS if norm in METHODS.load(name).norms]
    names = [CLEAN, *(name for name in sorted(chosen) if name != CLEAN)]
    target = pick_device(device)
    steppers = {name: _Stepper(presets.configure(preset, name, settings or {}), target) for name in names}
    work = {name: flops(stepper.step) for name, stepper in steppers.items()}
    forward = flops(steppers[CLEAN].forward)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-WARM_UP, repeats):
        for name, stepper in steppers.items():
            seconds = stepper.seconds()
            if turn >= 0:
                times[name].append(seconds)
        if progress and turn >= 0:
            progress("", turn + 1, repeats)
    rows = []
    for name in names:
        seconds = median(times[name])
        ratio = median(own / clean for own, clean in zip(times[name], times[CLEAN], strict=True))
        rows.append(
            {
                "method": name,
                "seconds": seconds,
                "images_per_second": len(steppers[name].batch.y) / seconds,
                "ratio": ratio,
                "passes": work[name] / forward,
                "gflops_per_second": work[name] / seconds / 1e9,
            }
        )
    return pd.DataFrame(rows)

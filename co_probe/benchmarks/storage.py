"""Cost of writing an epoch to the disk and reading it back."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from co_probe.benchmarks.measures import rows
from co_probe.benchmarks.setup import Setup
from co_probe.errors import UserError
from co_probe.runs.build import describe
from co_probe.store import StoredRun
from co_probe.training.optimizers import optimizer_state
from co_probe.training.recorder import Checkpoint, Recorder


def storage(setup: Setup) -> list[dict[str, Any]]:
    """Measure writing an epoch of each method (default: APART) as in training, and reading its weights back.

    Quantities: `write_seconds`, until everything is flushed to the disk, mostly in parallel to training;
    `read_seconds`, of the weights, from the page cache; `epoch_mb` and `resume_mb`, sizes of the files;
    `share_of_epoch`, the share of writing in the duration of an epoch without parallelism, an upper bound.

    Raises:
        UserError: If the folder cannot be written.
    """
    result = []
    for name in setup.methods(["apart"]):
        try:
            with tempfile.TemporaryDirectory(prefix=".co-probe-bench-", dir=setup.folder) as folder:
                result += _storage_of(setup, name, Path(folder) / name)
        except OSError as error:
            raise UserError(f"cannot write to the folder {setup.folder}: {error.strerror}") from error
    return result


def _storage_of(setup: Setup, name: str, out: Path) -> list[dict[str, Any]]:
    trainer, data = setup.trainer(name), setup.data
    trainer.step()
    config, model, method = trainer.config, trainer.model, trainer.method
    index = torch.arange(min(len(data.train_y), config.probe.train), device=setup.device)
    series = {"loss": torch.zeros(trainer.steps_per_epoch, device=setup.device)}
    info, test = describe(config, data, trainer.precision), (data.test_x[:1], data.test_y[:1])
    with Recorder(out, info=info, test=test, device=setup.device) as recorder:

        def write() -> None:  # replaces the same epoch each time
            recorder.epoch(
                Checkpoint(
                    epoch=1,
                    model=model.state_dict(),
                    method=method.parameters(),
                    images=method.image_state(index),
                    steps=series,
                    resume={**optimizer_state(model, trainer.optimizer), "method": method.state_dict()},
                )
            )
            recorder.flush()

        actions = {"write": write, "read": lambda: StoredRun(out).weights(1), "step": trainer.step}
        times = setup.times(f"storage, {name}", actions)
        sizes = {f"{file.name.partition('-')[0]}_mb": file.stat().st_size / 1e6 for file in sorted(out.glob("*-*.h5"))}
    share = times["write"] / (times["write"] + trainer.steps_per_epoch * times["step"])
    return rows(name, write_seconds=times["write"], read_seconds=times["read"], **sizes, share_of_epoch=share)

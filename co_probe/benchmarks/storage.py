"""The cost of writing an epoch to the disk, and of reading it back."""

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from co_probe.benchmarks.measures import rows
from co_probe.benchmarks.setup import Setup, Trainer
from co_probe.errors import UserError
from co_probe.runs.build import describe
from co_probe.store import RunWriter, StoredRun
from co_probe.training.metrics import EpochMetrics
from co_probe.training.state import copying_stream, draw_indices, momenta, snapshot


def storage(setup: Setup) -> list[dict[str, Any]]:
    """Measure writing an epoch of each method (default: APART) as training does, and reading its weights back.

    Quantities: `hold_seconds`, for which training waits while copies are made on the device; `write_seconds`, from
    there until all is flushed to the disk, which a run does while it trains on; `read_seconds`, of the weights, from a
    file that is still in the page cache; `epoch_mb` and `resume_mb`, the sizes of the files; `over_parameters`, by how
    much the epoch's file is larger than the parameters of the network, as a share of these; `share_of_epoch`, the
    first two over the duration of an epoch that waits for both, so an upper bound of what storing costs.

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
    trainer, count, stream = Trainer(setup, name), len(setup.data.train_y), copying_stream(setup.device)
    trainer.step()
    config, model, method = trainer.config, trainer.model, trainer.method
    index = torch.from_numpy(draw_indices(count, config.probe.train, config.seed, "probe train")).to(setup.device)
    metrics = dict.fromkeys((field.name for field in fields(EpochMetrics)), 0.5)
    series = {"loss": torch.zeros(trainer.steps_per_epoch, device=setup.device)}
    content: dict[str, Any] = {"metrics": metrics}
    resume: dict[str, Any] = {}

    def hold() -> None:
        state = method.image_state(index)
        content["model"] = snapshot(model.state_dict(), stream)
        content["images"] = snapshot({} if state is None else {"state": state}, stream)
        content["steps"], content["method"] = snapshot(series, stream), method.parameters()
        resume["momentum"] = snapshot(momenta(model, trainer.optimizer), stream)
        resume["method"] = snapshot(method.state_dict(), stream)

    with RunWriter(out, describe(config, setup.data, setup.precision), {}, {}) as writer:
        actions = {
            "hold": hold,
            "write": lambda: writer.commit(1, content, resume),  # every time in place of the same epoch
            "read": lambda: StoredRun(out).weights(1),
            "step": trainer.step,
        }
        times = setup.times(f"storage, {name}", actions)
        sizes = {file.name.partition("-")[0]: file.stat().st_size for file in out.glob("*-*.h5")}
    added = times["hold"] + times["write"]
    return rows(
        name,
        hold_seconds=times["hold"],
        write_seconds=times["write"],
        read_seconds=times["read"],
        epoch_mb=sizes["epoch"] / 1e6,
        resume_mb=sizes["resume"] / 1e6,
        over_parameters=sizes["epoch"] / sum(p.nbytes for p in model.parameters()) - 1,
        share_of_epoch=added / (added + trainer.steps_per_epoch * times["step"]),
    )

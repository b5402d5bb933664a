"""Initialisation of a run from weights of another one."""

from torch import nn

from co_probe.config import Config
from co_probe.data.dataset import Dataset
from co_probe.errors import DamagedFile, UserError
from co_probe.runs import load_weights
from co_probe.runs.references import RUN_AT_EPOCH
from co_probe.store import ModelSpec, StoredRun
from co_probe.training.state import tensors


def find_start(text: str) -> tuple[StoredRun, int]:
    """Return the run and the epoch that `RUN@EPOCH` names; EPOCH is a number, `last` or `best`.

    Raises:
        UserError: The text has another form, or the run or epoch does not exist.
    """
    parts = RUN_AT_EPOCH.fullmatch(text)
    if parts is None:
        raise UserError(f"init_from must be RUN@EPOCH, EPOCH a number, last or best, not {text!r}")
    run = StoredRun(parts[1])
    number = {"last": lambda: run.last_epoch, "best": lambda: run.best_epoch}.get(parts[2], lambda: int(parts[2]))()
    if number not in run.epochs:
        raise UserError(f"init_from: {run.name} has no epoch {number}; its last is {run.last_epoch}")
    return run, number


def load_start(model: nn.Module, config: Config, data: Dataset) -> None:
    """Load weights and BatchNorm statistics of `config.init_from` into `model`.

    Args:
        model: Network of the new run, in float32.
        config: Settings of the new run.
        data: Data set of the new run.

    Raises:
        UserError: The weights do not exist, or belong to another network or other images.
    """
    run, epoch = find_start(config.init_from)
    info, here = run.info, ModelSpec(config.model.name, dict(config.model.settings))
    if run.schema >= 3 and (info.shape, len(info.classes)) != (data.shape, len(data.classes)):
        raise UserError(
            f"init_from: {run.name} has images of shape {info.shape} in {len(info.classes)} classes, and the new run "
            f"has images of shape {data.shape} in {len(data.classes)} classes"
        )
    try:
        load_weights(model, tensors(run.weights(epoch)), f"{run.path}, epoch {epoch}")
    except DamagedFile as error:
        if (info.model.name, info.model.settings) == (here.name, here.settings):
            raise
        raise UserError(
            f"init_from: the network of {run.name} is {_named(info.model)}, and that of the new run is {_named(here)}: "
            "set the same model"
        ) from error


def _named(model: ModelSpec) -> str:
    return " ".join([model.name, *(f"{key}={value}" for key, value in model.settings.items())])

"""Export of a checkpoint as a `.pt` file of tensors, numbers and strings, without code."""

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from co_probe.config.plugins import is_own
from co_probe.config.settings import plain_sections
from co_probe.data.normalisation import Normalisation
from co_probe.data.pt_files import read_pt
from co_probe.errors import DamagedFile, UserError, one_line
from co_probe.files.atomic import write_atomic
from co_probe.inference.execution import execute
from co_probe.runs import Run, load_weights
from co_probe.runs.build import build_model
from co_probe.runs.foreign import ModelLike
from co_probe.store import ModelSpec, RunInfo
from co_probe.store.schema import require, whole
from co_probe.store.upgrade import ARCHITECTURE, upgrade_model, upgrade_wrappers

SCHEMA = 2  # schema 1 has no mean and std


@dataclass(frozen=True)
class Reference:
    """A fixed model that perturbations are transferred to.

    Attributes:
        model: The model in eval mode, for images within the bounds of the run.
        name: Name in tables: its file's name, or `RUN@EPOCH`.
        identity: Fingerprint of its weights.
        shape: (channels, height, width) of its images; None if unknown.
        classes: Names of its classes; None if unknown.
        bounds: Least and greatest value of a pixel.
        foreign: Whether its images and normalisation have not been checked.
        normalisation: Normalisation before a foreign network; None for none.
        run_id: Id of the run that it is an epoch of; empty if unknown.
    """

    model: nn.Module
    name: str
    identity: str
    shape: tuple[int, int, int] | None
    classes: tuple[str, ...] | None
    bounds: tuple[float, float] = (0.0, 1.0)
    foreign: bool = False
    normalisation: Normalisation | None = None
    run_id: str = ""

    def mismatch(self, run: str, shape: tuple[int, int, int], classes: tuple[str, ...]) -> str | None:
        """Return why it cannot be a reference for `run`, with images of `shape` in `classes`; None if it can."""
        if self.shape is None or self.classes is None or (self.shape, self.classes) == (shape, classes):
            return None
        return (
            f"the reference {self.name} takes images of shape {self.shape} in {len(self.classes)} classes, "
            f"and {run} has images of shape {shape} in {len(classes)} classes"
        )


def export(run: Run | str | Path, epoch: int | None, out: str | Path) -> None:
    """Write the model of a run after an epoch as a `.pt` file of tensors, numbers and strings.

    Args:
        run: The run, or the path of its folder or packed file.
        epoch: Number of the epoch; the last one if None.
        out: The file to write.

    Raises:
        UserError: The run, epoch or folder does not exist.

    Example:
        >>> co_probe.export("runs/pgd", None, "pgd10.pt")
    """
    run = run if isinstance(run, Run) else Run(run)
    epoch = run.last_epoch if epoch is None else epoch
    out = Path(out)
    if not out.parent.is_dir():
        raise UserError(f"the folder {out.parent} does not exist")
    info = run.info
    content = {
        "format": "co-probe model",
        "schema": SCHEMA,
        "architecture": ARCHITECTURE,
        "run": run.name,
        "method": info.method,
        "seed": info.seed,
        "epoch": epoch,
        "epsilon": info.epsilon,
        "model": {**info.model.settings, "name": info.model.name},
        "foreign": info.model.foreign,
        "shape": list(info.shape),
        "classes": list(info.classes),
        "bounds": list(info.bounds),
        "mean": None if info.mean is None else list(info.mean),
        "std": None if info.std is None else list(info.std),
        "precision": info.precision,
        "wrappers": plain_sections(run.config.wrappers) if info.settings else {},
        "weights": {name: value.contiguous() for name, value in run.load_model(epoch).state_dict().items()},
    }
    buffer = io.BytesIO()
    torch.save(content | {"checksum": _checksum(content)}, buffer)
    write_atomic(out, buffer.getvalue())


def load_reference(
    path: str | Path, device: str | torch.device = "cpu", *, model: ModelLike | None = None
) -> Reference:
    """Read a file of `export`, without executing code.

    Args:
        path: The file.
        device: Device of the model.
        model: The network or its constructor, for a model of another program.

    Raises:
        UserError: The file does not exist, or its model cannot be built here.
        DamagedFile: The file is not an exported one, or its weights do not fit.
    """
    path = Path(path)
    content = _read(path)
    try:
        return _reference(path, content, device, model)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise DamagedFile(f"{path} is not a model that co-probe exported: {one_line(repr(error)[:300])}") from error


def is_exported(path: str | Path) -> bool:
    """Return whether `export` wrote the file; False if it cannot be read."""
    try:
        content = _read(Path(path))
    except UserError:
        return False
    return isinstance(content, dict) and content.get("format") == "co-probe model"


def _read(path: Path) -> Any:
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; a reference is an epoch of a run, {path}@EPOCH, or a .pt file that holds one"
        )
    if not path.exists():
        run, _, epoch = str(path).rpartition("@")
        if run and Path(run).exists():
            raise UserError(f"{path}: the epoch of a reference is a number, last or best, not '{epoch}'")
        raise UserError(f"{path} does not exist; export an epoch of a run to it, or give RUN@EPOCH")
    try:
        return read_pt(path)
    except pickle.UnpicklingError as error:
        raise DamagedFile(
            f"{path} holds more than tensors, numbers and strings (or is no .pt file): it was not opened"
        ) from error


def _reference(path: Path, content: Any, device: str | torch.device, given: ModelLike | None) -> Reference:
    if not isinstance(content, dict) or content.get("format") != "co-probe model":
        raise DamagedFile(
            f"{path} is a .pt file, but not one that co-probe export wrote: to take a checkpoint of another program, "
            "give its model, reference_model"
        )
    if (schema := whole(content["schema"], "schema", 1)) > SCHEMA:
        raise UserError(f"{path} was written by a newer co-probe (schema {schema}): upgrade to read it")
    info, weights = _facts(content), content["weights"]
    for weight in weights.values():
        require(isinstance(weight, Tensor), "a weight", weight)
    if content.pop("checksum") != _checksum(content):
        raise DamagedFile(f"{path} was altered since it was exported: its checksum does not match")

    def build(info: RunInfo) -> nn.Module:
        model = build_model(info, given if info.model.foreign else None, weights=weights, source=str(path))
        load_weights(model, weights, str(path))
        return model

    model = build(info)
    if schema < 2 and is_own(info.model.name):
        # The file has no normalisation constants, which may be part of the weights.
        channels = info.shape[0]
        other = build(replace(info, mean=(0.5,) * channels, std=(2.0,) * channels))
        _require_same(model, other, info.shape, path)
    execute(model, info.precision)
    identity = fingerprint(weights, *((info.mean, info.std) if info.model.foreign else ()))
    return Reference(model.to(device).eval(), path.name, identity, info.shape, info.classes, info.bounds)


def _facts(content: dict[str, Any]) -> RunInfo:
    """Parse the facts in an exported file. Raises KeyError, TypeError or ValueError if they are invalid."""
    settings = upgrade_model(content["model"], whole(content.get("architecture", 1), "architecture", 1))
    name, mean, std = settings.pop("name"), content.get("mean"), content.get("std")
    sides = [whole(side, "shape", 1) for side in content["shape"]]
    for classes in content["classes"]:
        require(isinstance(classes, str), "the name of a class", classes)
    return RunInfo(
        run_id="0",
        method="",
        epsilon=content["epsilon"],
        bounds=tuple(content.get("bounds", (0.0, 1.0))),  # missing in files of earlier versions
        shape=tuple(sides),  # type: ignore[arg-type]  # RunInfo checks their number
        classes=tuple(content["classes"]),
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        data="",
        model=ModelSpec(name, settings, bool(content.get("foreign", False))),
        precision=content.get("precision", "float32"),
        settings=upgrade_wrappers(content),
    )


@torch.no_grad()
def _require_same(model: nn.Module, other: nn.Module, shape: tuple[int, int, int], path: Path) -> None:
    """Raise UserError if two models with the same weights and other constants compute different functions."""
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    if not torch.equal(model.eval()(x), other.eval()(x)):
        raise UserError(
            f"{path} was exported by a version that did not store the normalisation, which its model needs: export the "
            "checkpoint again"
        )


def _checksum(content: dict[str, Any]) -> str:
    """Compute a checksum of `content`, since torch does not verify those of the format."""
    total = _digest(content["weights"])
    total.update(repr([(name, value) for name, value in sorted(content.items()) if name != "weights"]).encode())
    return total.hexdigest()


def fingerprint(weights: Mapping[str, torch.Tensor], *constants: Sequence[float] | None) -> str:
    """Return 12 hexadecimal digits that identify a model's function.

    Args:
        weights: Tensors of the model.
        constants: Mean and std of a normalisation that is not among the tensors.
    """
    total = _digest(weights)
    for values in constants:
        total.update(b"" if values is None else repr([float(value) for value in values]).encode())
    return total.hexdigest()[:12]


def _digest(weights: Mapping[str, torch.Tensor]) -> "hashlib._Hash":
    total = hashlib.sha256()
    for name, value in sorted(weights.items()):
        total.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return total

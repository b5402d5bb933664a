"""A single checkpoint as a `.pt` file, to hand around: tensors, numbers and strings, and no code."""

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from co_probe.config.sections import ModelSection
from co_probe.config.settings import plain_sections, read_sections
from co_probe.errors import DamagedFile, UserError
from co_probe.files.atomic import write_atomic
from co_probe.inference.execution import execute
from co_probe.runs import Run, load_weights
from co_probe.runs.build import new_model
from co_probe.store.upgrade import ARCHITECTURE, upgrade_model, upgrade_wrappers

SCHEMA = 1


@dataclass(frozen=True)
class Reference:
    """A fixed model that perturbations are transferred to.

    `model`: in eval mode, on images of `shape` (channels, height, width) in [0, 1]; `name`: its file's name;
    `identity`: a fingerprint of its weights.
    """

    model: nn.Module
    name: str
    identity: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    bounds: tuple[float, float] = (0.0, 1.0)


def export(run: Run, epoch: int, out: str | Path) -> None:
    """Write the model of `run` after `epoch` to `out`. Raises UserError if there is no such epoch or no such folder."""
    out = Path(out)
    if not out.parent.is_dir():
        raise UserError(f"the folder {out.parent} does not exist")
    content = {
        "format": "co-probe model",
        "schema": SCHEMA,
        "architecture": ARCHITECTURE,
        "run": run.name,
        "method": run.config.method.name,
        "seed": run.config.seed,
        "epoch": epoch,
        "epsilon": run.epsilon,
        "model": {"name": run.config.model.name, **run.config.model.settings},
        "shape": list(run.data.shape),
        "classes": list(run.data.classes),
        "bounds": list(run.data.bounds),
        "precision": run.precision,
        "wrappers": plain_sections(run.config.wrappers),
        "weights": {name: value.contiguous() for name, value in run.load_model(epoch).state_dict().items()},
    }
    buffer = io.BytesIO()
    torch.save(content | {"checksum": _checksum(content)}, buffer)
    write_atomic(out, buffer.getvalue())


def load_reference(path: str | Path, device: str | torch.device = "cpu") -> Reference:
    """Read what `export` wrote, on whatever device it was. Only tensors, numbers and strings are read: no code is run.

    Raises UserError if there is no such file, DamagedFile if it is not such a file or its weights do not fit.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; make a reference of a run with: co-probe export {path} -o FILE.pt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make it with: co-probe export RUN --epoch N -o {path}") from None
    except pickle.UnpicklingError as error:
        raise DamagedFile(
            f"{path} holds more than tensors, numbers and strings (or is no .pt file): it was not opened"
        ) from error
    except Exception as error:  # of any kind: the file may hold anything
        reason = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise DamagedFile(f"{path} cannot be read as a .pt file ({reason})") from error
    try:
        return _reference(path, content, device)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise DamagedFile(f"{path} is not a model that co-probe exported: {error!r}") from error


def _reference(path: Path, content: dict[str, Any], device: str | torch.device) -> Reference:
    if not isinstance(content, dict) or content.get("format") != "co-probe model":
        raise DamagedFile(f"{path} is a .pt file, but not one that co-probe export wrote")
    if content.pop("checksum", None) not in (None, _checksum(content)):
        raise DamagedFile(f"{path} was altered since it was exported: its checksum does not match")
    settings = upgrade_model(content["model"], content.get("architecture", 1))
    channels, height, width = content["shape"]
    classes, weights = tuple(content["classes"]), content["weights"]
    low, high = content.get("bounds", (0.0, 1.0))  # files of earlier versions do not say
    name, zeros, ones = settings.pop("name"), [0.0] * channels, [1.0] * channels
    sections = read_sections(upgrade_wrappers(content)).values()
    wrappers = [section for section in sections if isinstance(section, ModelSection)]
    shape = channels, height, width
    model = new_model(name, settings, shape, len(classes), zeros, ones, wrappers=wrappers)
    load_weights(model, weights, str(path))
    execute(model, content.get("precision", "float32"))
    identity = _fingerprint(weights).hexdigest()[:12]
    return Reference(model.to(device).eval(), path.name, identity, shape, classes, (low, high))


def _checksum(content: dict[str, Any]) -> str:
    """Of all of `content`; the format itself has none that torch verifies."""
    total = _fingerprint(content["weights"])
    total.update(repr([(name, value) for name, value in sorted(content.items()) if name != "weights"]).encode())
    return total.hexdigest()


def _fingerprint(weights: dict[str, torch.Tensor]):
    total = hashlib.sha256()
    for name, value in sorted(weights.items()):
        total.update(name.encode() + value.numpy().tobytes())
    return total

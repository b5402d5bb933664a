"""Facts about a run, apart from weights and images."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np

from co_probe.config import Config
from co_probe.config.labels import NORMS
from co_probe.store.schema import MOST_EPOCHS, json_object, require, whole
from co_probe.store.upgrade import upgrade_model

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class ModelSpec:
    """The network of a run.

    Attributes:
        name: A registered name, `package.module:Name`, or, for a foreign model that cannot be imported by name, the
            name of its class.
        settings: Keyword arguments of its constructor.
        foreign: Whether the network is from another program. A foreign network is built as `Name(**settings)`; if the
            run has `mean` and `std`, images are normalised by them before it. Other networks are built as
            `Name(channels, classes, mean, std, **settings)` and normalise images themselves.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    foreign: bool = False


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Facts about a run, trained by any program; readers use them instead of training settings.

    Attributes:
        run_id: Hexadecimal id of the run in each of its files, from `new_run_id`. Empty for a run of schema 1 or 2,
            whose `shape` (0, 0, 0), `classes` (none), `mean` and `std` are known once its data set is loaded.
        method: Name of the training method in tables and figures.
        seed: Seed of training; None if unknown.
        epsilon: Bound of perturbations, in pixel units of a [0, 1] image.
        norm: Norm that ε bounds: `linf`, every pixel, or `l2`, the Euclidean norm of the perturbation.
        bounds: Least and greatest value of a pixel; may be infinite.
        shape: (channels, height, width) of the probe images.
        classes: Names of the classes, in the order of the logits.
        mean: Mean that images are normalised by, one value per channel, or None if the model normalises by itself.
        std: Standard deviation that images are normalised by, one value per channel, or None with `mean`.
        data: Name of the data set in tables and figures.
        model: The network of the weights.
        attack: Name of the training method or attack (`fgsm-rs`); None if unknown.
        precision: Precision of the network: `float32` or `bfloat16`.
        planned: Number of epochs of the finished run; None if unknown.
        batch_size: Number of images per optimizer step; None if unknown or not constant.
        steps_per_epoch: Number of optimizer steps per epoch; None if unknown or not constant.
        settings: `Config` of a run trained by co-probe, as plain data; None for other runs.

    Raises:
        ValueError: A value has a wrong type or is out of range.
    """

    run_id: str
    method: str
    seed: int | None = None
    epsilon: float
    norm: str = "linf"
    bounds: tuple[float, float] = (0.0, 1.0)
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    data: str
    model: ModelSpec
    attack: str | None = None
    precision: str = "float32"
    planned: int | None = None
    batch_size: int | None = None
    steps_per_epoch: int | None = None
    settings: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require(set(self.run_id) <= set("0123456789abcdef"), "run_id", self.run_id)
        for name in ("epsilon", "bounds", "mean", "std", "shape"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            require(all(isinstance(number, int | float) for number in numbers), name, value)
        require(math.isfinite(self.epsilon) and self.epsilon > 0, "epsilon", self.epsilon)
        require(self.norm in NORMS, "norm", self.norm)
        require(len(self.bounds) == 2 and self.bounds[0] < self.bounds[1], "bounds", self.bounds)
        if self.run_id:
            require(len(self.shape) == 3 and all(0 < side < 2**20 for side in self.shape), "shape", self.shape)
            require(len(self.classes) > 0, "classes", self.classes)
        require((self.mean is None) == (self.std is None), "mean and std", (self.mean, self.std))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None:
                fits = len(values) in (1, self.shape[0]) and all(map(math.isfinite, values))
                require(fits, name, values)
        require(self.std is None or min(self.std) > 0, "std", self.std)
        require(self.precision in PRECISIONS, "precision", self.precision)
        require(bool(self.model.name), "model", self.model.name)
        for name in ("planned", "batch_size", "steps_per_epoch"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value)

    @property
    def probe_seed(self) -> int:
        """Seed of diagnostics: that of the run, or 0 if unknown."""
        return self.seed or 0


def new_run_id() -> str:
    """Make a random run id of 32 hexadecimal digits."""
    return uuid4().hex


def info_of_older(config: Config, precision: str, planned: int) -> RunInfo:
    """Make the facts of a run of schema 1 or 2 with settings `config`, without its data set."""
    return RunInfo(
        run_id="",
        method=config.method_title,
        seed=config.seed,
        epsilon=config.epsilon,
        norm=config.norm,
        shape=(0, 0, 0),
        classes=(),
        data=config.data_title,
        model=ModelSpec(config.model.name, dict(config.model.settings)),
        attack=config.method.name,
        precision=precision,
        planned=planned,
        batch_size=None if config.resolution_stages else config.batch_size,
        settings=config.to_dict(),
    )


def info_to_tree(info: RunInfo) -> dict[str, Any]:
    """Convert to the group `/info` of `run.h5`, without None values; `info_from_tree` is the inverse."""
    content = {
        "run_id": info.run_id,
        "method": info.method,
        "seed": info.seed,
        "epsilon": float(info.epsilon),
        "norm": info.norm,
        "bounds": np.array(info.bounds, np.float64),
        "shape": np.array(info.shape, np.int64),
        "classes": np.char.encode(np.array(info.classes, dtype=str), "utf-8", "surrogateescape"),
        "mean": None if info.mean is None else np.array(info.mean, np.float64),
        "std": None if info.std is None else np.array(info.std, np.float64),
        "data": info.data,
        "model": json.dumps(asdict(info.model)),
        "attack": info.attack,
        "precision": info.precision,
        "planned": info.planned,
        "batch_size": info.batch_size,
        "steps_per_epoch": info.steps_per_epoch,
        "settings": None if info.settings is None else json.dumps(info.settings),
    }
    return {name: value for name, value in content.items() if value is not None}


def info_from_tree(tree: Mapping[str, Any], architecture: int) -> RunInfo:
    """Convert the group `/info` of `run.h5` to a `RunInfo`.

    Args:
        tree: The group, as read by `co_probe.store.tree.read`.
        architecture: Version of the built-in networks in the run.

    Raises:
        KeyError, TypeError, ValueError: The tree has another structure, or a value is out of range.
    """
    model = json_object(tree["model"])
    require(isinstance(model["name"], str), "the name of the model", model["name"])
    require(isinstance(model["settings"], dict), "the settings of the model", model["settings"])
    require(isinstance(model["foreign"], bool), "foreign", model["foreign"])
    require(bool(tree["run_id"]), "run_id", tree["run_id"])
    require(isinstance(tree["epsilon"], float), "epsilon", tree["epsilon"])
    spec = upgrade_model({**model["settings"], "name": model["name"]}, architecture)
    settings = json_object(tree["settings"]) if "settings" in tree else None
    if settings is not None:
        settings["model"] = upgrade_model(settings["model"], architecture)
    bounds, shape = _numbers(tree, "bounds"), _numbers(tree, "shape")
    require(bounds is not None and len(bounds) == 2, "bounds", bounds)
    require(shape is not None and len(shape) == 3 and all(side.is_integer() for side in shape), "shape", shape)
    assert bounds is not None and shape is not None
    return RunInfo(
        run_id=_text(tree, "run_id"),
        method=_text(tree, "method"),
        seed=_whole(tree, "seed", 0),
        epsilon=tree["epsilon"],
        norm=_text(tree, "norm"),
        bounds=(bounds[0], bounds[1]),
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        classes=tuple(str(name) for name in np.char.decode(np.atleast_1d(tree["classes"]), "utf-8", "surrogateescape")),
        mean=_numbers(tree, "mean"),
        std=_numbers(tree, "std"),
        data=_text(tree, "data"),
        model=ModelSpec(spec.pop("name"), spec, model["foreign"]),
        attack=_text(tree, "attack") if "attack" in tree else None,
        precision=_text(tree, "precision"),
        planned=_whole(tree, "planned", 1, MOST_EPOCHS),
        batch_size=_whole(tree, "batch_size", 1),
        steps_per_epoch=_whole(tree, "steps_per_epoch", 1),
        settings=settings,
    )


def _text(tree: Mapping[str, Any], name: str) -> str:
    require(isinstance(tree[name], str), name, tree[name])
    return tree[name]


def _whole(tree: Mapping[str, Any], name: str, least: int, most: int = 2**63) -> int | None:
    return whole(tree[name], name, least, most) if name in tree else None


def _numbers(tree: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    if name not in tree:
        return None
    array = np.asarray(tree[name])
    require(array.ndim == 1 and array.dtype.kind in "if" and len(array) < 2**20, name, array.dtype)
    return tuple(float(value) for value in array)

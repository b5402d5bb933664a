"""The settings of a run: parsed, checked, and written down as plain data."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from fractions import Fraction
from typing import Any, get_args, get_origin

from co_probe.config.kinds import fits, in_words
from co_probe.config.labels import NORMS
from co_probe.errors import UserError, unknown


def parse_number(text: str | float) -> float:
    """A number as a person types it: `0.031`, `8/255`, `1e-4`. Raises UserError for anything else."""
    try:
        if isinstance(text, str) and "/" in text:
            return float(Fraction(text.replace(" ", "")))
        return float(text)
    except (ValueError, TypeError, ArithmeticError):
        raise UserError(f"'{text}' is not a number: give it as 0.031 or 8/255") from None


PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Part:
    """A component by its registered name, with its settings; written flat: `{name = ..., key = ...}`."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """SGD with momentum; `learning_rate` is the schedule's peak."""

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crops from `padding` pixels of zeros, and random horizontal flips."""

    padding: int = 0
    flip: bool = False


@dataclass(frozen=True, kw_only=True)
class Inject:
    """An easy feature in every image: x + β·v(y), with v(y) the carrier of class y.

    `beta`: β, in pixel units of a [0, 1] image, 0 for none; `into`: the images of `train`, `test` or `both`;
    `orthogonal`: first remove these images' projection on the carriers; `reversed`: test images get −β·v(y), which
    misleads a network that goes by the carrier.
    `clip`: x + δ is clipped to [0, 1], as the authors' code of the injection experiments does. x + β·v(y) itself is
    not, so a pixel that the carrier took outside is moved back in by every perturbation, by more than ε if need be.
    Without `clip`, x + δ may lie anywhere. Source: arXiv 2206.08242.
    """

    beta: float = 0.0
    orthogonal: bool = False
    into: str = "both"
    reversed: bool = False
    clip: bool = True

    def __post_init__(self):
        if not 0 <= self.beta <= 1:
            raise UserError(
                f"inject.beta is in pixel units of a [0, 1] image, from 0 to 1, not {self.beta:g}"
                + (f": did you mean {self.beta:g}/255?" if self.beta > 1 else "")
            )
        if self.into not in ("train", "test", "both"):
            raise UserError(f"inject.into must be train, test or both, not {self.into!r}")
        if self.reversed and self.into == "train":
            raise UserError("inject.reversed is about test images, and inject.into is train: set it to test or both")

    @property
    def changes_images(self) -> bool:
        return self.beta > 0 or self.orthogonal

    def scale(self, split: str) -> float:
        """By how much the carriers are in the images of `split` (train or test): β, −β or 0."""
        if self.into not in (split, "both"):
            return 0.0
        return -self.beta if self.reversed and split == "test" else self.beta


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of `epochs` in which images stored at `size`×`size` are trained on in random crops of `crop`×`crop`.

    `batch_size`: that of the run, if not given.
    """

    epochs: int
    size: int
    crop: int
    batch_size: int | None = None

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise UserError(f"phases: {name} must be greater than 0, not {value}")
        # Crops are placed as in images with padding, which has the same width on both sides.
        if self.crop > self.size or (self.size - self.crop) % 2:
            raise UserError(f"phases: crop {self.crop} must be size {self.size} or less, by an even number of pixels")


@dataclass(frozen=True, kw_only=True)
class ProbeSizes:
    """How many test and train images every diagnostic of the run uses (fewer if there are fewer)."""

    test: int = 1000
    train: int = 1000


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run's outcome depends on, besides the machine.

    `epsilon` is the bound of perturbations, in pixel units of a [0, 1] image, and `norm` what it bounds: `linf`, every
    pixel (so it is at most 1), or `l2`, the Euclidean length of the whole; training raises it from 0 to there over the
    first `epsilon_warmup` epochs. `epochs` is the budget in passes over the training images (a method that trains m
    times on every batch goes through them, and keeps, an m-th as many). `phases`: for training images that grow during
    the run; their epochs add up to `epochs`. `precision`: what the network computes in (see
    `co_probe.inference.execution`); `auto` is bfloat16 on a GPU, else float32, and what it came to is stored with the
    run's environment.
    `inject`: a feature added to the images; `low_pass`: W, if the model is to see the W×W lowest frequencies of its
    images only, 0 if all of them.
    """

    method: Part
    data: Part
    model: Part
    epsilon: float
    epochs: int
    batch_size: int = 128
    seed: int = 0
    schedule: Part = Part("triangular")
    optimizer: Optimizer = Optimizer()
    augmentation: Augmentation = Augmentation()
    probe: ProbeSizes = ProbeSizes()
    preset: str = ""
    epsilon_warmup: float = 0.0
    phases: tuple[Phase, ...] = ()
    precision: str = "auto"
    norm: str = "linf"
    inject: Inject = Inject()
    low_pass: int = 0

    def __post_init__(self):
        positive = {"epsilon": self.epsilon, "epochs": self.epochs, "batch_size": self.batch_size}
        positive |= {"probe.test": self.probe.test, "probe.train": self.probe.train}
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be greater than 0, not {value:g}")
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        if self.norm == "linf" and self.epsilon > 1:
            raise UserError(
                f"epsilon is in pixel units of a [0, 1] image, and {self.epsilon:g} is more than 1: "
                f"did you mean {self.epsilon:g}/255?"
            )
        at_least_0 = {"seed": self.seed, "augmentation.padding": self.augmentation.padding, "low_pass": self.low_pass}
        at_least_0 |= {f"optimizer.{name}": value for name, value in asdict(self.optimizer).items()}
        for name, value in at_least_0.items():
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{name} must not be negative, but it is {value:g}")
        if not 0 <= self.epsilon_warmup <= self.epochs:
            raise UserError(f"epsilon_warmup must be between 0 and {self.epochs} epochs, not {self.epsilon_warmup:g}")
        if self.phases and (total := sum(phase.epochs for phase in self.phases)) != self.epochs:
            raise UserError(f"phases have {total} epochs together, and epochs is {self.epochs}: set both")
        if self.phases and self.augmentation.padding:
            raise UserError("augmentation.padding must be 0 in a run with phases: their images are cropped as they are")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.inject.beta and self.augmentation.flip:
            raise UserError("augmentation.flip must be false with inject: flipped carriers are those of other classes")
        if self.phases and self.low_pass > (least := min(phase.crop for phase in self.phases)):
            raise UserError(f"low_pass must be at most the smallest crop of the phases, {least}, not {self.low_pass}")
        for kind, part in (("data", self.data), ("method", self.method)):
            if not isinstance(part.settings.get("title", ""), str):
                raise UserError(f"{kind}.title must be text, not {part.settings['title']!r}")
        limit = self.data.settings.get("limit", 1)
        if not fits(limit, int) or limit < 1:
            raise UserError(f"data.limit must be a whole number of training images, at least 1, not {limit!r}")

    @property
    def data_title(self) -> str:
        """What tables and figures call the data set: `data.title`, or its name (of a folder, without the way there)."""
        return self.data.settings.get("title") or self.data.name.rpartition(":")[2].rstrip("/").rpartition("/")[2]

    @property
    def method_title(self) -> str:
        """What tables and figures call the method: `method.title`, for one with settings of its own, or its name."""
        return self.method.settings.get("title") or self.method.name

    def to_dict(self) -> dict[str, Any]:
        """Plain nested data, as TOML and JSON hold it; `from_dict` is its inverse."""
        return {f.name: _flatten(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Config":
        """Build from plain nested data. Raises UserError for an unknown or missing key or a wrong value."""
        _check_keys("setting", data, cls)
        missing = [name for name in ("method", "data", "model", "epsilon", "epochs") if name not in data]
        if missing:
            raise UserError(f"settings are missing: {', '.join(missing)}")
        return cls(**{f.name: _convert(f.name, f.type, data[f.name]) for f in fields(cls) if f.name in data})


def _flatten(value: Any) -> Any:
    if isinstance(value, Part):
        return {"name": value.name, **value.settings}
    if isinstance(value, tuple):
        return [_flatten(part) for part in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _check_keys(kind: str, data: Mapping[str, Any], cls: type) -> None:
    known = [f.name for f in fields(cls)]
    for key in data:
        if key not in known:
            raise unknown(kind, key, known)


def _convert(name: str, kind: Any, value: Any) -> Any:
    """Give `value` the declared type of the setting `name`."""
    if kind is Part:
        value = dict(value) if isinstance(value, Mapping) else {"name": value}
        if not isinstance(value.get("name"), str):
            raise UserError(f"{name} must have a name, as text, not {value.get('name')!r}")
        return Part(value.pop("name"), value)
    if hasattr(kind, "__dataclass_fields__"):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} is a section of settings, not one value: {value!r}")
        _check_keys(f"setting in {name}", value, kind)
        for f in fields(kind):
            if f.name not in value and f.default is MISSING:
                raise UserError(f"{name}: {f.name} is missing")
        return kind(
            **{f.name: _convert(f"{name}.{f.name}", f.type, value[f.name]) for f in fields(kind) if f.name in value}
        )
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{name} is a list of tables, not {value!r}")
        return tuple(_convert(name, get_args(kind)[0], part) for part in value)
    if kind is float and not isinstance(value, bool):
        return parse_number(value)
    if not fits(value, kind):
        raise UserError(f"{name} must be {in_words(kind)}, not {value!r}")
    return value


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `extra` over it, section by section. A section that changes its `name` starts afresh."""
    merged = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def parse_assignment(text: str) -> dict[str, Any]:
    """`method.steps=5` as `{"method": {"steps": 5}}`: the value is TOML, a fraction, or else a string."""
    key, equals, raw = text.partition("=")
    if not (equals and key.strip()):
        raise UserError(f"--set takes key=value, for example method.steps=5, not '{text}'")
    value: Any
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        try:
            value = parse_number(raw)
        except UserError:
            value = raw.strip()
    for name in reversed(key.strip().split(".")):
        value = {name: value}
    return value

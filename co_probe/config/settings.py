"""Settings of a run: parsing, validation, and conversion to plain data."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from fractions import Fraction
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from co_probe.config.ball import check_ball
from co_probe.config.kinds import fits, in_words
from co_probe.config.optimizers import OPTIMIZERS, SGD, Optimizer
from co_probe.config.plain import check_plain
from co_probe.config.sections import SECTIONS, ModelSection, Section
from co_probe.config.toml import InvalidTOML, parse_toml
from co_probe.errors import UserError, unknown


def parse_number(text: str | float) -> float:
    """Parse a number such as `0.031`, `8/255` or `1e-4`. Raises UserError for anything else."""
    try:
        if isinstance(text, str) and "/" in text:
            return float(Fraction(text.replace(" ", "")))
        return float(text)
    except (ValueError, TypeError, ArithmeticError):
        raise UserError(f"'{text}' is not a number: give it as 0.031 or 8/255") from None


AnySection = TypeVar("AnySection", bound=Section)
# Greatest values: larger ones are mistakes, or numbers overflow.
MOST = {
    "epochs": 10**6,
    "batch_size": 10**9,
    "probe.test": 10**9,
    "probe.train": 10**9,
    "probe.validation": 10**9,
    "augmentation.padding": 10**4,
}
AUTO_VALIDATION = 1000  # number of images that Rice et al. (2020) hold out of CIFAR-10
LEAST_TO_SPLIT = 5000  # least number of training images for a default validation split
RENAMED = {"phases": "resolution_stages"}  # former name -> name, for old runs and presets
PRECISIONS = ("auto", "float32", "bfloat16")
WEIGHTS = ("trained", "ema")  # weights after the last step, or their moving average
GUARDS = ("pgd2", "n-fgsm", "rollback", "stop")
EARLY_STOPS = ("wong",)


@dataclass(frozen=True)
class Component:
    """A component by its registered name, with its settings; stored flat: `{name = ..., key = ...}`."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crops from `padding` pixels of zeros, and random horizontal flips."""

    padding: int = 0
    flip: bool = False


@dataclass(frozen=True, kw_only=True)
class ResolutionStage:
    """Part of a run with images of one size.

    Attributes:
        epochs: Number of epochs.
        size: Side of the stored images, in pixels.
        crop: Side of the random crops, in pixels.
        batch_size: Batch size; that of the run if None.
    """

    epochs: int
    size: int
    crop: int
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise UserError(f"resolution_stages: {name} must be greater than 0, not {value}")
        # Crops are placed as in padded images, whose padding has the same width on both sides.
        if self.crop > self.size or (self.size - self.crop) % 2:
            raise UserError(
                f"resolution_stages: crop {self.crop} must be size {self.size} or less, by an even number of pixels"
            )


@dataclass(frozen=True, kw_only=True)
class ProbeSizes:
    """Numbers of images that diagnostics of a run use.

    Attributes:
        test: Number of test images, at most.
        train: Number of training images, at most.
        validation: Training images that are held out, which determine onset, best epoch and alarms, so that no test
            image is used for model selection: a number, a share below 1 of the training images, 0 for none, or `auto`:
            a tenth, at most 1,000, of 5,000 or more training images, else none.
    """

    test: int = 1000
    train: int = 1000
    validation: float | str = 0

    def __post_init__(self) -> None:
        value = self.validation
        if value == "auto":
            return
        if isinstance(value, str) or not (math.isfinite(value) and value >= 0 and (value < 1 or value == int(value))):
            raise UserError(
                f"probe.validation must be a number of images, a share below 1, 0 or auto, not {self.validation!r}"
            )

    def held_out(self, count: int) -> int:
        """Return the number of validation images out of `count` training images.

        Raises:
            UserError: No training images would remain.
        """
        value = self.validation
        if isinstance(value, str):
            return min(AUTO_VALIDATION, count // 10) if count >= LEAST_TO_SPLIT else 0
        number = round(value * count) if value < 1 else int(value)
        if number >= count:
            raise UserError(f"probe.validation holds out {number:,} of {count:,} training images: choose fewer")
        return number


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings that determine the result of a run, apart from the machine.

    Attributes:
        epsilon: Bound of perturbations, in pixel units of a [0, 1] image.
        norm: Norm that it bounds: `linf`, every pixel (so ε is at most 1), or `l2`, the Euclidean norm.
        epsilon_warmup: Number of epochs over which training raises ε from 0.
        epochs: Budget in passes over the training images. A method with m replays per batch trains, and stores, an m-th
            as many epochs.
        resolution_stages: Stages of growing training images; their epochs add up to `epochs`.
        precision: Precision of the network (`co_probe.inference.execution`); `auto` is bfloat16 on a GPU, else float32.
            The environment of the run stores the actual one.
        step_indicators: Whether training steps record indicators of their two gradients; weights do not depend on it.
        guard: Remedy when the alarm fires, one of `GUARDS` (`co_probe.methods.guarded`); empty for none.
        early_stop: `wong` ends the run when accuracy under PGD-5 falls by 20 points from one epoch to the next
            (`co_probe.training.early_stop`); empty for never.
        init_from: `RUN@EPOCH` with the initial weights and BatchNorm statistics; optimizer and method start anew.
            Empty for random weights.
        ema: Decay τ of a moving average of the weights, which is stored and measured in addition; 0 for none.
        label_smoothing: Share of each label that is spread over all classes in the loss of the weights; perturbations
            maximise the loss without smoothing.
        sync_batchnorm: Whether BatchNorm uses the whole batch if several processes train together. If not, each process
            normalises by its own part, and running statistics are averaged after each epoch.
        extensions: Sections of studies (`co_probe.config.sections`) with an effect, by name; in plain data they are
            next to the other settings.
    """

    method: Component
    data: Component
    model: Component
    epsilon: float
    epochs: int
    batch_size: int = 128
    seed: int = 0
    schedule: Component = Component("triangular")
    optimizer: Optimizer = field(default_factory=SGD)
    augmentation: Augmentation = Augmentation()
    probe: ProbeSizes = ProbeSizes()
    preset: str = ""
    epsilon_warmup: float = 0.0
    resolution_stages: tuple[ResolutionStage, ...] = ()
    precision: str = "auto"
    norm: str = "linf"
    step_indicators: bool = True
    guard: str = ""
    early_stop: str = ""
    init_from: str = ""
    ema: float = 0.0
    label_smoothing: float = 0.0
    sync_batchnorm: bool = False
    extensions: dict[str, Section] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive = {"epsilon": self.epsilon, "epochs": self.epochs, "batch_size": self.batch_size}
        positive |= {"probe.test": self.probe.test, "probe.train": self.probe.train}
        for name, value in positive.items():
            if not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, not {value:g}")
            if not value > 0:
                raise UserError(f"{name} must be greater than 0, not {value:g}")
        check_ball(self.epsilon, self.norm)
        if self.probe.validation != "auto":
            positive["probe.validation"] = float(self.probe.validation)  # for the upper limit
        at_least_0 = {"seed": self.seed, "augmentation.padding": self.augmentation.padding}
        for name, value in at_least_0.items():
            if not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, not {value:g}")
            if value < 0:
                raise UserError(f"{name} must not be negative, but it is {value:g}")
        for name, value in (positive | at_least_0).items():
            if value > MOST.get(name, math.inf):
                raise UserError(f"{name} must be at most {MOST[name]:,g}, not {value:g}")
        self.optimizer.check()
        if not 0 <= self.epsilon_warmup <= self.epochs:
            raise UserError(f"epsilon_warmup must be between 0 and {self.epochs} epochs, not {self.epsilon_warmup:g}")
        stages = self.resolution_stages
        if stages and (total := sum(stage.epochs for stage in stages)) != self.epochs:
            raise UserError(f"resolution_stages have {total} epochs together, and epochs is {self.epochs}: set both")
        if stages and self.augmentation.padding:
            raise UserError("augmentation.padding must be 0 with resolution_stages, whose crops need no padding")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        for kind, part in (("data", self.data), ("method", self.method)):
            if not isinstance(part.settings.get("title", ""), str):
                raise UserError(f"{kind}.title must be text, not {part.settings['title']!r}")
        limit = self.data.settings.get("limit", 1)
        if not fits(limit, int) or limit < 1:
            raise UserError(f"data.limit must be a whole number of training images, at least 1, not {limit!r}")
        for name, share in (("ema", self.ema), ("label_smoothing", self.label_smoothing)):
            if not 0 <= share < 1:
                raise UserError(f"{name} must be at least 0 and less than 1, not {share:g}")
        if self.guard and self.guard not in GUARDS:
            raise unknown("guard", self.guard, GUARDS)
        if self.early_stop and self.early_stop not in EARLY_STOPS:
            raise unknown("early_stop", self.early_stop, EARLY_STOPS)
        for section in self.extensions.values():
            section.check(self)

    def extension(self, kind: type[AnySection]) -> AnySection:
        """Return the section of this class; one with all defaults if the settings do not have it.

        Example:
            >>> config.extension(Inject).beta
        """
        return next((section for section in self.extensions.values() if isinstance(section, kind)), kind())

    @property
    def wrappers(self) -> dict[str, ModelSection]:
        """Sections that wrap the model, the innermost first."""
        return {name: part for name, part in self.extensions.items() if isinstance(part, ModelSection)}

    @property
    def caption(self) -> str:
        """Text after data set and ε in titles of figures, such as `, β = 8/255`; may be empty."""
        return "".join(f", {section.caption}" for section in self.extensions.values() if section.caption)

    @property
    def data_title(self) -> str:
        """Name of the data set in tables and figures: `data.title`, or its name (of a folder, without its path)."""
        return self.data.settings.get("title") or self.data.name.rpartition(":")[2].rstrip("/").rpartition("/")[2]

    @property
    def method_title(self) -> str:
        """Name of the method in tables and figures: `method.title` if it is set, or its label."""
        title = self.method.settings.get("title") or self.method.name
        return f"{title}, guard {self.guard}" if self.guard else title

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain nested data for TOML and JSON; `from_dict` is the inverse."""
        plain = {f.name: _flatten(getattr(self, f.name)) for f in fields(self) if f.name != "extensions"}
        return plain | plain_sections(self.extensions)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Config":
        """Build from plain nested data. Raises UserError for an unknown or missing key or a wrong value."""
        check_plain(data)
        data = with_current_names(data)
        own = [f for f in fields(cls) if f.name != "extensions"]
        known = [*(f.name for f in own), *SECTIONS]
        for key in data:
            if key not in known:
                raise unknown("setting", key, known)
        missing = [name for name in ("method", "data", "model", "epsilon", "epochs") if name not in data]
        if missing:
            raise UserError(f"settings are missing: {', '.join(missing)}")
        given = {f.name: _convert(f.name, f.type, data[f.name]) for f in own if f.name in data}
        return cls(**given, extensions=read_sections(data))


def with_current_names(data: Mapping[str, Any]) -> dict[str, Any]:
    """Replace former names of settings. Raises UserError if a setting has both names."""
    for old, new in RENAMED.items():
        if old in data and new in data:
            raise UserError(f"{old} is the former name of {new}: set one of them")
    return {RENAMED.get(key, key): value for key, value in data.items()}


def plain_sections(sections: Mapping[str, Section]) -> dict[str, Any]:
    """Convert sections of studies to plain data; `read_sections` is the inverse."""
    return {name: _flatten(section) for name, section in sections.items()}


def read_sections(data: Mapping[str, Any]) -> dict[str, Section]:
    """Read the sections of studies with an effect from plain `data`; other keys are ignored.

    Raises:
        UserError: If a section has an unknown setting, or a wrong value.
    """
    sections = {}
    for name in SECTIONS:
        if name in data:
            kind, value = SECTIONS.load(name), data[name]
            if kind.shorthand and not isinstance(value, Mapping):
                value = {kind.shorthand: _convert(name, get_type_hints(kind)[kind.shorthand], value)}
            if (section := _convert(name, kind, value)) != kind():
                sections[name] = section
    return sections


def _flatten(value: Any) -> Any:
    if isinstance(value, Section) and value.shorthand:
        return getattr(value, value.shorthand)
    if isinstance(value, Component):
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
    """Convert `value` to the declared type of the setting `name`."""
    if kind is Component:
        value = dict(value) if isinstance(value, Mapping) else {"name": value}
        if not isinstance(value.get("name"), str):
            raise UserError(f"{name} must have a name, as text, not {value.get('name')!r}")
        return Component(value.pop("name"), value)
    if kind is Optimizer:
        value = value if isinstance(value, Mapping) else {"name": value}
        kind = _optimizer(value.get("name", SGD.name))
    if hasattr(kind, "__dataclass_fields__"):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} is a section of settings, not one value: {value!r}")
        _check_keys(f"setting in {name}", value, kind)
        for f in fields(kind):
            if f.name not in value and f.default is MISSING:
                raise UserError(f"{name}: {f.name} is missing")
        types = get_type_hints(kind)
        return kind(**{key: _convert(f"{name}.{key}", types[key], part) for key, part in value.items()})
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{name} is a list of tables, not {value!r}")
        return tuple(_convert(name, get_args(kind)[0], part) for part in value)
    if kind is float and not isinstance(value, bool):
        return parse_number(value)
    if not fits(value, kind):
        raise UserError(f"{name} must be {in_words(kind)}, not {value!r}")
    return value


def _optimizer(name: Any) -> type[Optimizer]:
    """Return the class of a registered optimizer. User code is not possible here, since files are read without it."""
    if not isinstance(name, str) or name not in OPTIMIZERS:
        raise unknown("optimizer", str(name), OPTIMIZERS)
    return OPTIMIZERS.target(name)


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `extra` over `base` by section; a section with another `name` replaces that of `base`."""
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
    """Parse `method.steps=5` to `{"method": {"steps": 5}}`; the value is TOML, a fraction, or else a string."""
    key, equals, raw = text.partition("=")
    if not (equals and key.strip()):
        raise UserError(f"a setting is given as key=value, for example method.steps=5, not '{text}'")
    value: Any
    try:
        value = parse_toml(f"value = {raw}")["value"]
    except InvalidTOML:
        try:
            value = parse_number(raw)
        except UserError:
            value = raw.strip()
    return nested(key.strip(), value)


def nested(key: str, value: Any) -> dict[str, Any]:
    """Nest a setting by its dotted name: `{"model": {"width": 8}}` for `model.width`."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value

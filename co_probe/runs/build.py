"""Construction of data set, model and method from settings."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from co_probe.config import Config
from co_probe.config.plugins import is_own
from co_probe.config.sections import DataSection, ModelSection
from co_probe.config.settings import read_sections
from co_probe.data import DATA
from co_probe.data.check import check_dataset
from co_probe.data.dataset import Dataset
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.methods.base import Method
from co_probe.methods.guarded import Guarded
from co_probe.models import MODELS
from co_probe.numerics.memory import require_memory
from co_probe.numerics.rng import make_rng
from co_probe.runs.fitting import require_fit, require_logits
from co_probe.runs.foreign import ModelLike, class_name, copied, resolve_model
from co_probe.store import ModelSpec, RunInfo, new_run_id


def pick_device(name: str = "auto") -> torch.device:
    """Return the device for `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`. Raises UserError if missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name} cannot be used: choose auto, cpu, cuda or cuda:N ({reason})") from error
    return device


def make_data(config: Config) -> Dataset:
    """Load the data set of a run on the CPU; `data.limit` selects a fixed subset of training images.

    Sections of studies in the settings may transform its images. Raises UserError if the data set or its settings are
    invalid.
    """
    settings = {key: value for key, value in config.data.settings.items() if key not in ("title", "limit")}
    data = _expect(Dataset, "data set", config.data.name, DATA.make(config.data.name, **settings))
    check_dataset(data, config.data.name)
    limit = config.data.settings.get("limit", len(data.train_y))
    if limit < len(data.train_y):
        if data.train_at:
            raise UserError(f"data.limit is not for {config.data.name}, whose images are read from the disk")
        chosen = torch.randperm(len(data.train_y), generator=make_rng("cpu", 0, "limit"))[:limit]
        data = replace(data, train_x=data.train_x[chosen], train_y=data.train_y[chosen])
    for section in config.extensions.values():
        if isinstance(section, DataSection):
            data = section.transform(data)
    return data


def make_model(config: Config, data: Dataset) -> nn.Module:
    """Build the model of a run for images in [0, 1], initialised from the global random state."""
    name, settings, classes = config.model.name, config.model.settings, len(data.classes)
    about = data.shape, classes, data.mean, data.std
    return new_model(name, settings, *about, wrappers=[*config.wrappers.values()])


def check_parts(config: Config) -> None:
    """Check settings of the model before the data set is loaded, which may take minutes. Raises UserError."""
    if not MODELS.is_own(config.model.name):
        MODELS.check_settings(config.model.name, 4, config.model.settings)


def build_model(
    info: RunInfo, given: ModelLike | None = None, *, weights: Mapping[str, Any] | None = None, source: str = ""
) -> nn.Module:
    """Build the network of a run, without its weights.

    Args:
        info: Facts about the run.
        given: The network or its constructor, instead of the one named by the run (`co_probe.runs.foreign`).
        weights: The weights to load. Networks of co-probe are compared with them before memory is allocated, since a
            small file may name a large network.
        source: Source of the weights, for errors.

    Raises:
        UserError: The network cannot be built here.
        DamagedFile: The weights do not fit the network.
    """
    if weights is not None and given is None and not is_own(info.model.name):
        try:
            with without_memory():
                outline = build_model(info)
        except (NotImplementedError, RuntimeError):  # its constructor needs actual values, so it cannot be compared
            pass
        else:
            require_fit(outline, weights, source)
    sections = read_sections(info.settings or {}).values()
    wrappers = [section for section in sections if isinstance(section, ModelSection)]
    if info.model.foreign:
        foreign = build_foreign(info.model, info.shape, len(info.classes), info.mean, info.std, given)
        return _wrapped(foreign, wrappers, info.shape)
    if isinstance(given, nn.Module):  # it includes the normalisation, like the network of the run
        return _wrapped(copied(given), wrappers, info.shape)
    channels, classes, settings = info.shape[0], len(info.classes), info.model.settings
    mean, std = info.mean or (0.0,) * channels, info.std or (1.0,) * channels
    if given is None or isinstance(given, str):
        return new_model(given or info.model.name, settings, info.shape, classes, mean, std, wrappers=wrappers)
    made = _expect(nn.Module, "model", class_name(given), given(channels, classes, mean, std, **settings))
    return _wrapped(made, wrappers, info.shape).to(memory_format=torch.channels_last)


def build_foreign(
    spec: ModelSpec,
    shape: tuple[int, int, int],
    classes: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    given: ModelLike | None,
) -> nn.Module:
    """Build a network of another program, without its weights.

    Args:
        spec: Description of the network in a run or an exported file.
        shape: (channels, height, width) of the images.
        classes: Number of classes.
        mean: Mean that images are normalised by before the network; None for no normalisation.
        std: Standard deviation, with `mean`.
        given: The network or its constructor; None to find it by name.

    Raises:
        UserError: It cannot be found by name, or not be built.
    """
    if given is None and not is_own(spec.name):
        raise UserError(
            f"the weights are of a model of another program, {spec.name}, which cannot be found by that name: hand it "
            "in, model=..."
        )
    settings = None if isinstance(given, nn.Module) else spec.settings
    made = spec.name if given is None else given
    return resolve_model(made, channels=shape[0], classes=classes, mean=mean, std=std, settings=settings).model


def new_model(
    name: str,
    settings: dict[str, Any],
    shape: tuple[int, int, int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    wrappers: Sequence[ModelSection] = (),
) -> nn.Module:
    """Build a model by name for images of `shape` (C, H, W), channels-last, in the `wrappers` of studies.

    User code returns a module that takes images in [0, 1]. It is called as `Name(channels, classes, mean, std,
    **settings)` if it has four or more required arguments, else with `settings` and those arguments for numbers of
    classes and channels that it has. Raises UserError if the model cannot be built or a wrapper does not fit.
    """
    if _is_foreign(name):
        model = resolve_model(name, channels=shape[0], classes=classes, settings=settings).model
    else:
        arguments = shape[0], classes, mean, std
        if not MODELS.is_own(name):
            _require_memory(name, arguments, settings)
        model = _expect(nn.Module, "model", name, MODELS.make(name, *arguments, **settings))
    if MODELS.is_own(name):
        require_logits(model, name, shape, classes)
    return _wrapped(model, wrappers, shape).to(memory_format=torch.channels_last)


@contextmanager
def without_memory() -> Iterator[None]:
    """Build networks on the device `meta`, without values and random numbers, inside the context."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        yield


def _require_memory(name: str, arguments: tuple[Any, ...], settings: dict[str, Any]) -> None:
    """Raise UserError if parameters, gradients and momenta exceed the memory."""
    hint = "choose a smaller one"
    with without_memory():
        try:
            parameters = MODELS.make(name, *arguments, **settings).parameters()
            needed = 3 * sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        except NotImplementedError:  # its constructor needs actual values
            return
        except (RuntimeError, OverflowError) as error:  # the number of bytes overflows
            raise UserError(f"model {name} with {settings} needs more memory than any machine has: {hint}") from error
    require_memory(needed, f"model {name}", hint)


def _wrapped(model: nn.Module, wrappers: Sequence[ModelSection], shape: tuple[int, int, int]) -> nn.Module:
    for wrapper in wrappers:
        model = wrapper.wrap(model, shape)
    return model


def _is_foreign(name: str) -> bool:
    """Return whether this is user code that does not take (channels, classes, mean, std)."""
    if not MODELS.is_own(name):
        return False
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = signature(MODELS.load(name)).parameters.values()
    except (TypeError, ValueError):  # builtins have no signature
        return True
    return sum(p.kind in positional and p.default is Parameter.empty for p in parameters) < 4


def describe(config: Config, data: Dataset, precision: str) -> RunInfo:
    """Make the facts of a new run of `config` on `data` in `precision`."""
    foreign = _is_foreign(config.model.name)  # takes images in [0, 1], as in training
    return RunInfo(
        run_id=new_run_id(),
        method=config.method_title,
        seed=config.seed,
        epsilon=config.epsilon,
        norm=config.norm,
        bounds=data.bounds,
        shape=data.shape,
        classes=tuple(map(str, data.classes)),
        mean=None if foreign else tuple(map(float, data.mean)),
        std=None if foreign else tuple(map(float, data.std)),
        data=config.data_title,
        model=ModelSpec(config.model.name, dict(config.model.settings), foreign),
        attack=config.method.name,
        precision=precision,
        planned=epoch_count(config),
        settings=config.to_dict(),
    )


def make_method(config: Config, bounds: tuple[float, float] = (0.0, 1.0)) -> Method:
    """Make the method of a run, without state.

    Args:
        config: Settings of the run.
        bounds: Least and greatest pixel value of its data set.

    Raises:
        UserError: If the method or a setting is unknown, or the method does not support the norm.
    """
    name = config.method.name
    settings = {key: value for key, value in config.method.settings.items() if key != "title"}
    for key in ("norm", "bounds"):
        if key in settings:
            raise UserError(f"{key} is not a setting of method {name}: it belongs to the run or its data set")
    made = METHODS.make(name, norm=config.norm, bounds=bounds, **settings)
    method = _expect(Method, "method", name, made)
    if not config.guard:
        return method
    try:
        return Guarded(norm=config.norm, bounds=bounds, inner=method, remedy=config.guard)
    except ValueError as error:
        raise UserError(f"method {name}, guard {config.guard}: {error}") from error


def epoch_count(config: Config) -> int:
    """Return the number of epochs that a run trains and stores: its budget of passes divided by replays, rounded up.

    The rounding is that of the authors' code of Free (Shafahi et al., 2019).
    """
    return math.ceil(config.epochs / make_method(config).replays)


def _expect(expected: type, kind: str, name: str, made: Any) -> Any:
    """Return `made` if it has the expected type. Raises UserError otherwise, since user code may return anything."""
    if not isinstance(made, expected):
        raise UserError(f"{kind} {name} gave {type(made).__name__}, not {expected.__module__}.{expected.__name__}")
    return made

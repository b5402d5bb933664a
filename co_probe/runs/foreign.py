"""Construction of a model that a user names or passes, from images in [0, 1] to logits."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

from torch import nn

from co_probe.config import plugins
from co_probe.config.kinds import check_kinds
from co_probe.errors import UserError, unknown
from co_probe.models import MODELS
from co_probe.models.foreign import ForeignModel

ModelLike = nn.Module | Callable[..., nn.Module] | str

# Names of arguments for the number of classes and the number of channels.
CLASSES = ("num_classes", "n_classes", "nclasses", "num_class", "n_class", "nb_classes", "class_num", "classes")
CHANNELS = ("in_channels", "num_channels", "n_channels", "input_channels", "in_chans", "in_ch", "channels")


@dataclass(frozen=True)
class BuiltModel:
    """A model and how to build it again.

    Attributes:
        model: Takes (B, C, H, W) images within the bounds of the run and returns (B, classes) logits.
        name: Registered name, `package.module:Name`, or the name of its class.
        settings: Keyword arguments of the call of the named class or function.
        foreign: Whether it is a network of another program, which needs a normalisation before it.
        own: Names of tensors in its state dict that published state dicts lack.
    """

    model: nn.Module
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    foreign: bool = True
    own: tuple[str, ...] = ()


def resolve_model(
    given: ModelLike,
    *,
    channels: int,
    classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> BuiltModel:
    """Build a user's model.

    Args:
        given: A module, which is copied; a class or function that returns one; its name `package.module:Name`; or a
            registered name (`preact_resnet18`, `torchvision:resnet18`, `timm:NAME`). It is called with `settings` and
            those arguments for numbers of classes and channels that it has.
        channels: Channels of the images.
        classes: Number of classes.
        mean: Mean that images are normalised by, one value per channel; None if the model takes images in [0, 1].
        std: Standard deviation, with `mean`.
        settings: Keyword arguments for the class or function.

    Raises:
        UserError: The name is unknown or may not be imported, the model needs other arguments, or is no module.
    """
    chosen = dict(settings or {})
    if isinstance(given, nn.Module):
        if chosen:
            raise UserError("model settings are for a class or a name; this model is built already")
        return BuiltModel(ForeignModel(copied(given), mean, std), class_name(given))
    if isinstance(given, str) and not plugins.is_own(_known(given)):
        constants = (mean or [0.0] * channels, std or [1.0] * channels)
        model = MODELS.make(given, channels, classes, *constants, **chosen)
        own = tuple(name for name in model.state_dict() if name.startswith("normalize."))
        return BuiltModel(model, given, chosen, foreign=False, own=own)
    if isinstance(given, str):
        name, target = given, plugins.load("model", given)
    elif callable(given):
        name, target = class_name(given), given
    else:
        raise UserError(f"the model must be a module, a class, a function or a name, not {type(given).__name__}")
    arguments = _arguments(name, target, chosen, channels, classes, mean, std)
    try:
        network = target(**arguments)
    except Exception as error:  # user code may raise anything
        raise UserError(f"model {name} fails with {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"model {name} gave {type(network).__name__}, not torch.nn.Module")
    if {"mean", "std"} <= arguments.keys():  # it normalises images itself, like models of co-probe
        kept = {key: value for key, value in arguments.items() if key in chosen}
        return BuiltModel(network, name, kept, foreign=False)
    return BuiltModel(ForeignModel(network, mean, std), name, arguments)


def class_name(target: Any) -> str:
    """Return `package.module:Name` of a class, function, or an object's class; the bare name of a local one."""
    named = target if hasattr(target, "__qualname__") else type(target)
    if not hasattr(named, "__qualname__") or "<" in named.__qualname__ or named.__module__ == "__main__":
        return getattr(named, "__name__", type(target).__name__)
    return f"{named.__module__}:{named.__qualname__}"


def _known(name: str) -> str:
    """Return `name`; raise UserError if it is neither registered nor `package.module:Name`."""
    if ":" not in name and name not in MODELS:
        raise unknown("model", name, [*MODELS, "package.module:Name"])
    registered = MODELS.check(name)
    return "" if registered.partition(":")[0] in {entry.partition(":")[0] for entry in MODELS} else registered


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model, or the model if it cannot be copied, so that the user's weights do not change."""
    try:
        return copy.deepcopy(model)
    except Exception:  # modules may hold objects that cannot be copied
        return model


def _arguments(
    name: str,
    target: Callable[..., Any],
    settings: Mapping[str, Any],
    channels: int,
    classes: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> dict[str, Any]:
    """Return keyword arguments for `target`: `settings` and facts about the data."""
    try:
        parameters = signature(target).parameters
    except (TypeError, ValueError):  # builtins have no signature
        return dict(settings)
    if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
        for key in settings:
            if key not in parameters:
                raise unknown(f"setting of model {name}", key, list(parameters) or ["(it has no settings)"])
    check_kinds(f"model {name}", target, settings)
    required = {
        key
        for key, p in parameters.items()
        if p.default is Parameter.empty and p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    }
    known: dict[str, Any] = {key: channels for key in CHANNELS if key in required}
    known |= {key: classes for key in CLASSES if key in parameters}
    if {"mean", "std"} <= required:
        known |= {"mean": tuple(mean or [0.0] * channels), "std": tuple(std or [1.0] * channels)}
    if missing := sorted(required - known.keys() - settings.keys()):
        raise UserError(
            f"model {name} needs {', '.join(missing)}: give it as a setting of the model, or name a function without "
            "arguments that returns the model"
        )
    return known | dict(settings)

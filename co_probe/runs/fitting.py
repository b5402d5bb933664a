"""Comparison of weights with a model, and loading without conversion."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from co_probe.errors import DamagedFile, UserError
from co_probe.inference.forward import Forward

IMAGES = 2  # number of images for trials of a model
NO_FIT = "the weights do not fit the model they are said to be of"


@torch.no_grad()
def require_logits(model: nn.Module, name: str, shape: tuple[int, int, int], classes: int) -> None:
    """Try user code on black images before an expensive run, without using random numbers.

    Raises:
        UserError: The model fails, or does not return logits of shape (n, classes).
    """
    x = torch.zeros(IMAGES, *shape)
    with torch.random.fork_rng(devices=[]), Forward(model, batchnorm="eval").as_module():
        try:
            logits = model(x)
        except UserError:
            raise
        except Exception as error:  # user code may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"model {name} fails on images of shape {tuple(x.shape)} with {reason}") from error
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (IMAGES, classes):
        seen = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"model {name} returned {seen} for {IMAGES} images, and logits of shape (n, classes) are needed, "
            f"({IMAGES}, {classes})"
        )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load `weights` into `model`.

    Raises:
        DamagedFile: Names, shapes or types differ.
    """
    require_fit(model, weights, source)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DamagedFile(f"{source}: {NO_FIT}: {reason}") from error


def require_fit(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Compare weights with those of a model, possibly on the device `meta`, without copying.

    Raises:
        DamagedFile: Names, shapes or types differ.
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    if missing := sorted(own.keys() - weights.keys()):
        raise DamagedFile(f"{source}: {NO_FIT}: {missing[0]} is missing")
    for name, value in weights.items():
        if name not in own:
            raise DamagedFile(f"{source}: {NO_FIT}: {name} is not among its own")
        if (seen := _described(value)) != (expected := _described(own[name])):
            raise DamagedFile(f"{source}: {NO_FIT}: {name} is {seen}, not {expected}")


def _described(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

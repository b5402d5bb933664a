"""Normalisation constants of well-known data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from co_probe.errors import UserError, unknown


@dataclass(frozen=True)
class Normalisation:
    """(x − mean) / std: one mean and one standard deviation per channel, in units of a [0, 1] image."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        return f"mean {_numbers(self.mean)}, std {_numbers(self.std)}"


def _numbers(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


NORMALISATIONS = {
    "cifar10": Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Normalisation((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": Normalisation((0.1307,), (0.3081,)),
    "svhn": Normalisation((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


def as_normalisation(given: Any, channels: int | None = None) -> Normalisation:
    """Convert a user's normalisation.

    Args:
        given: A data set's name (`cifar10`), `half` (mean and std of 0.5 in each channel), a `Normalisation`, or a
            pair (mean, std) of numbers, sequences or tensors, one value per channel or one for all.
        channels: Number of channels of the images; the number of values if None.

    Raises:
        UserError: The name is unknown, or the values do not fit the number of channels.
    """
    if given == "half":
        given = (0.5, 0.5)
    if isinstance(given, str):
        if given not in NORMALISATIONS:
            raise unknown("normalisation", given, [*NORMALISATIONS, "half"])
        given = NORMALISATIONS[given]
    pair = (given.mean, given.std) if hasattr(given, "mean") and hasattr(given, "std") else given
    try:
        mean, std = (_values(part) for part in pair)
    except (TypeError, ValueError):
        raise UserError(
            f"normalisation must be a name or a pair (mean, std) of numbers per channel, not {given!r}"
        ) from None
    channels = channels or max(len(mean), len(std))
    if not {len(mean), len(std)} <= {1, channels}:
        raise UserError(f"normalisation has {len(mean)} means and {len(std)} stds, and images have {channels} channels")
    if min(std) <= 0 or max(mean) > 2:
        raise UserError(
            f"normalisation is in units of a [0, 1] image, std above 0: mean {_numbers(mean)} and std {_numbers(std)} "
            "are not; divide by 255?"
        )
    return Normalisation(*(value * channels if len(value) == 1 else value for value in (mean, std)))


def _values(part: Any) -> tuple[float, ...]:
    if isinstance(part, Sequence):
        return tuple(float(value) for value in part)
    flat = part.flatten().tolist() if hasattr(part, "flatten") else [part]  # tensors (3, 1, 1), arrays, a number
    return tuple(float(value) for value in flat)

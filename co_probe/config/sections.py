"""Sections of settings that studies add to `Config`, with their command-line options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from co_probe.config.registry import Registry

SECTIONS = Registry("section")  # {name of the section in settings: class}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A setting that a sweep varies.

    Attributes:
        name: Key in a sweep's file and option of `co-probe sweep`: `injects` for `--injects`.
        label: Name of the value in folders of a sweep: `beta` in `fgsm-eps8of255-beta4of255-seed0`.
        help: Description of the values, in one sentence.
    """

    name: str
    label: str
    help: str


@dataclass(frozen=True, kw_only=True)
class Option:
    """A command-line option that sets one setting.

    Attributes:
        flags: Flags: `--inject-into`, or `--clip-images/--no-clip-images` for a boolean setting.
        setting: The setting, `inject.into`.
        help: Description of the setting, in one sentence.
        kind: `number` (may be typed as 8/255), `integer`, `choice`, `flag` (true if given) or `switch` (on or off).
        choices: The values of a `choice`.
        metavar: Name of the value in the help.
        needs: Option without which this one has no effect, for the error; see `Section.in_effect`.
        axis: How a sweep varies a `number` in pixel units; None if it does not.
    """

    flags: str
    setting: str
    help: str
    kind: str = "number"
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    needs: str | None = None
    axis: Axis | None = None


class Section:
    """Settings that a study adds to `Config`: subclass it as a frozen, keyword-only dataclass of plain values.

    Every field has a default; with all defaults the section has no effect, and `Config` omits it. Register the class in
    `SECTIONS`, in a module that does not import torch.
    """

    options: ClassVar[tuple[Option, ...]] = ()
    shorthand: ClassVar[str | None] = None  # the field that a bare value sets: low_pass = 5

    @property
    def in_effect(self) -> bool:
        """Whether options with `needs` have an effect."""
        return True

    @property
    def caption(self) -> str:
        """Addition to titles of figures, such as `β = 8/255`; may be empty."""
        return ""

    @classmethod
    def adapt(cls, preset: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the preset with the changes that this section needs.

        Args:
            preset: The settings of the preset.
            given: The settings of this section that the user gave.
        """
        return preset

    def check(self, config: Any) -> None:
        """Raise UserError if the section conflicts with other settings of the `Config`."""


class DataSection(Section):
    """A section that changes the data set."""

    def transform(self, data: Any) -> Any:
        """Return the transformed `co_probe.data.dataset.Dataset`. Raises UserError if that is impossible."""
        raise NotImplementedError


class ModelSection(Section):
    """A section that wraps the model."""

    def wrap(self, model: Any, shape: tuple[int, int, int]) -> Any:
        """Return the wrapped `nn.Module`, for images of `shape` (C, H, W). Raises UserError if that is impossible."""
        raise NotImplementedError


def all_options() -> list[Option]:
    """List the command-line options of all sections."""
    return [option for name in SECTIONS for option in SECTIONS.load(name).options]

"""Sections of settings that studies add to `Config`, with their command-line options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from co_probe.config.registry import Registry

SECTIONS = Registry("section")  # {name of the section in settings: class}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """How a sweep takes several values of a setting.

    Attributes:
        name: Key in a sweep's file and option of `co-probe sweep`: `injects` for `--injects`.
        label: What the names of a sweep's folders call the value, `beta` for `fgsm-eps8of255-beta4of255-seed0`.
        help: What the values are, in one sentence.
    """

    name: str
    label: str
    help: str


@dataclass(frozen=True, kw_only=True)
class Option:
    """A command-line option that sets one setting.

    Attributes:
        flags: As it is typed: `--inject-into`, or `--clip-images/--no-clip-images` for a setting that is on or off.
        setting: The setting, `inject.into`.
        help: What the setting is, in one sentence.
        kind: `number` (may be typed as 8/255), `integer`, `choice`, `flag` (true if given) or `switch` (on or off).
        choices: The values of a `choice`.
        metavar: What the help calls the value.
        needs: The option without which this one has no effect, as the error calls it; see `Section.in_effect`.
        axis: How a sweep takes several values of a `number` in pixel units; None if it takes one, as a run does.
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

    Every field has a default, and with all of them at their default the section changes nothing; `Config` then leaves
    it out. Register the class in `SECTIONS`, in a module that does not import torch.
    """

    options: ClassVar[tuple[Option, ...]] = ()
    shorthand: ClassVar[str | None] = None  # the only field, if a bare value stands for it: low_pass = 5

    @property
    def in_effect(self) -> bool:
        """Whether options that say `needs` have something to work on."""
        return True

    @property
    def caption(self) -> str:
        """The addition to the title of figures, `β = 8/255`, or nothing."""
        return ""

    @classmethod
    def adapt(cls, preset: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the preset that a user's settings go over, changed as the section needs it.

        Args:
            preset: The settings of the preset.
            given: The settings of this section that the user gave.
        """
        return preset

    def check(self, config: Any) -> None:
        """Raise UserError if the section does not go with the other settings of the `Config`."""


class DataSection(Section):
    """A section that changes the data set."""

    def transform(self, data: Any) -> Any:
        """Return the changed `co_probe.data.dataset.Dataset`. Raises UserError if it cannot be changed so."""
        raise NotImplementedError


class ModelSection(Section):
    """A section that wraps the model."""

    def wrap(self, model: Any, shape: tuple[int, int, int]) -> Any:
        """Return the wrapped `nn.Module`, for images of `shape` (C, H, W). Raises UserError if that cannot be."""
        raise NotImplementedError


def all_options() -> list[Option]:
    """The command-line options of all sections."""
    return [option for name in SECTIONS for option in SECTIONS.load(name).options]

"""Settings of the injection experiments: carriers in the images, and a low-pass filter before the network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from co_probe.config.labels import epsilon_label
from co_probe.config.sections import Axis, DataSection, ModelSection, Option
from co_probe.config.settings import Config
from co_probe.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from co_probe.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Inject(DataSection):
    """The section `inject` of a run's settings: x + β·v(y), where v(y) is the carrier of class y.

    Attributes:
        beta: β, in pixel units of a [0, 1] image; 0 for no carrier.
        orthogonal: First remove the projection of these images on the span of the carriers.
        into: The split that gets carriers: `train`, `test` or `both`.
        reversed: Add −β·v(y) to test images, which misleads a network that classifies by the carrier.
        clip: Clip x + δ to [0, 1], like the authors' code. Since x + β·v(y) is not clipped, every perturbation then
            moves pixels that the carrier put outside [0, 1] back into it, even by more than ε. Without `clip`, x + δ
            is unbounded.

    Raises:
        UserError: If a value is out of range.

    Reference:
        arXiv 2206.08242.
    """

    beta: float = 0.0
    orthogonal: bool = False
    into: str = "both"
    reversed: bool = False
    clip: bool = True

    options = (
        Option(
            flags="--inject",
            setting="inject.beta",
            metavar="BETA",
            axis=Axis(
                name="injects",
                label="beta",
                help="Values of β of carriers added to the images: 0,4/255,8/255.  [default: none]",
            ),
            help="Add β times the carrier of its class to each image, without the preset's crops and flips "
            "(arXiv 2206.08242): 8/255.",
        ),
        Option(
            flags="--inject-into",
            setting="inject.into",
            kind="choice",
            choices=("train", "test", "both"),
            needs="--inject BETA",
            help="Images that get the carrier.  [default: both]",
        ),
        Option(
            flags="--inject-orthogonal",
            setting="inject.orthogonal",
            kind="flag",
            help="First remove the projection of the images on the carriers.",
        ),
        Option(
            flags="--inject-reversed",
            setting="inject.reversed",
            kind="flag",
            needs="--inject BETA",
            help="Add the negative carrier to test images.",
        ),
        Option(
            flags="--clip-images/--no-clip-images",
            setting="inject.clip",
            kind="switch",
            help="Clip perturbed images to [0, 1], which carriers exceed.  [default: clip]",
        ),
    )

    def __post_init__(self) -> None:
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
        """Whether the images differ from those of the data set."""
        return self.beta > 0 or self.orthogonal

    @property
    @override
    def in_effect(self) -> bool:
        return self.changes_images

    @property
    @override
    def caption(self) -> str:
        return f"β = {epsilon_label(self.beta)}" if self.beta else ""

    @classmethod
    def adapt(cls, preset: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Remove the preset's augmentation if a carrier is injected, also for β = 0, so that such runs are comparable.

        Crops and flips would move the carriers, and a flipped carrier is the carrier of another class.
        """
        return preset | {"augmentation": {}} if {"beta", "orthogonal"} & set(given) else preset

    @override
    def check(self, config: Config) -> None:
        if self.beta and config.augmentation.flip:
            raise UserError("augmentation.flip must be false with inject: flipped carriers are those of other classes")

    def scale(self, split: str) -> float:
        """Return the factor of the carriers in the images of `split` (`train` or `test`): β, −β or 0."""
        if self.into not in (split, "both"):
            return 0.0
        return -self.beta if self.reversed and split == "test" else self.beta

    @override
    def transform(self, data: "Dataset") -> "Dataset":
        from co_probe.studies.injection.carriers import inject

        if not self.clip:
            data = replace(data, bounds=(-math.inf, math.inf))
        if not self.changes_images:
            return data
        splits = ("train", "test") if self.into == "both" else (self.into,)
        return inject(data, {split: self.scale(split) for split in splits}, orthogonal=self.orthogonal)


@dataclass(frozen=True, kw_only=True)
class LowPass(ModelSection):
    """The section `low_pass` of a run's settings: a filter before the network, which passes low frequencies only.

    A number may stand for the section: its width.

    Attributes:
        width: W, to pass the W×W lowest frequencies; 0 for no filter.

    Raises:
        UserError: If the width is negative.
    """

    width: int = 0

    shorthand = "width"
    options = (
        Option(
            flags="--low-pass",
            setting="low_pass",
            kind="integer",
            metavar="W",
            help="Filter images before the model: keep the W×W lowest frequencies.",
        ),
    )

    def __post_init__(self) -> None:
        if self.width < 0:
            raise UserError(f"low_pass must not be negative, but it is {self.width}")

    @override
    def check(self, config: Config) -> None:
        stages = config.resolution_stages
        if stages and self.width > (least := min(stage.crop for stage in stages)):
            raise UserError(f"low_pass must be at most the smallest crop of the run, {least}, not {self.width}")

    @override
    def wrap(self, model: "nn.Module", shape: tuple[int, int, int]) -> "nn.Module":
        from co_probe.studies.injection import low_pass

        if self.width > (size := min(shape[1:])):
            raise UserError(f"low_pass must be at most {size}, the size of images, not {self.width}")
        if any(isinstance(module, low_pass.LowPass) for module in model.modules()):
            raise UserError("low_pass must be 0 for a model that has a low-pass already")
        return low_pass.LowPass(model, self.width)

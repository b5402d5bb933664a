"""Classifiers of torchvision and timm, by their names there, with random weights."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from co_probe.errors import UserError, unknown
from co_probe.models.normalize import Normalize

# Settings of runs and .pt files may be untrusted: they must not fetch or open other files.
REFUSED = ("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "weights")


class Normalized(nn.Module):
    """A normalisation followed by `network`; grey images are repeated in `repeat` channels for RGB networks.

    Takes (B, channels, height, width) images in [0, 1] and returns (B, classes) logits; auxiliary logits that some
    networks return in training are dropped.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], repeat: int = 1):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = network
        self.repeat = repeat

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(self.normalize(x).repeat(1, self.repeat, 1, 1))
        return logits if isinstance(logits, Tensor) else logits[0]

    @staticmethod
    def published_name(name: str) -> str:
        """Translate a name in the state dict of the library's classifier to the name here."""
        return f"network.{name}"


def torchvision_model(
    name: str, channels: int, classes: int, mean: Sequence[float], std: Sequence[float], **settings: Any
) -> Normalized:
    """Build a torchvision classifier; `settings` are arguments of its constructor.

    Raises UserError for a name that torchvision does not have or a setting that would fetch weights, ValueError for
    images that are neither grey nor RGB.
    """
    from torchvision import models

    if name not in (names := models.list_models(module=models)):
        raise unknown("torchvision model", name, names)
    if channels not in (1, 3):
        raise ValueError(f"it takes grey or RGB images, not {channels} channels")
    _refuse(name, settings)
    network = models.get_model(name, weights=None, num_classes=classes, **settings)
    return Normalized(network, mean, std, repeat=3 // channels)


def resnet50(channels: int, classes: int, mean: Sequence[float], std: Sequence[float], **settings: Any) -> Normalized:
    """Build torchvision's ResNet-50 for images of 224×224: He et al. (2016), with the stride in the 3×3."""
    return torchvision_model("resnet50", channels, classes, mean, std, **settings)


def timm_model(
    name: str, channels: int, classes: int, mean: Sequence[float], std: Sequence[float], **settings: Any
) -> Normalized:
    """Build a timm classifier; `settings` are arguments of its constructor.

    Raises UserError if timm is not installed, for a name that it does not have, or a setting that would fetch weights.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(f"timm:{name} needs the package timm: pip install timm") from error

    if name not in (names := timm.list_models()):
        raise unknown("timm model", name, names)
    _refuse(name, settings)
    return Normalized(timm.create_model(name, num_classes=classes, in_chans=channels, **settings), mean, std)


def _refuse(name: str, settings: dict[str, Any]) -> None:
    for key in settings:
        if key in REFUSED:
            raise UserError(f"model {name} starts from random weights here: leave out {key}")

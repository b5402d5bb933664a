"""Wide residual networks for small images."""

from collections.abc import Sequence

from co_probe.models.preact_resnet import PreActResNet


class WideResNet(PreActResNet):
    """WRN-`depth`-`width`: a stem of 16 channels, then three stages of (depth − 4)/6 PreActBlocks.

    The stages are 16, 32 and 64 times `width` wide.
    Takes (B, channels, height, width) images in [0, 1] and returns (B, classes) logits.
    Raises ValueError if `depth` is not 6n + 4, or a size is not positive.
    Source: Zagoruyko & Komodakis (2016), Table 1, without dropout.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        depth: int = 34,
        width: int = 10,
    ):
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, 34, ...), not {depth}")
        super().__init__(channels, classes, mean, std, width=16 * width, blocks=[(depth - 4) // 6] * 3, stem=16)


def wide_resnet28_10(channels: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> WideResNet:
    """WRN-28-10: 36.5 million parameters."""
    return WideResNet(channels, classes, mean, std, depth=28, width=10)


def wide_resnet34_10(channels: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> WideResNet:
    """WRN-34-10: 46.2 million parameters."""
    return WideResNet(channels, classes, mean, std, depth=34, width=10)

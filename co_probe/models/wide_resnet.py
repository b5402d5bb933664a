"""Wide residual networks for small images, as used by TRADES, AWP and RobustBench."""

import re
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from co_probe.models.normalize import Normalize
from co_probe.models.preact_resnet import conv3x3, every

PUBLISHED = {"bn1": "bn", "fc": "linear"}  # published name -> name here, of top-level modules


class WideBlock(nn.Module):
    """x + conv2(relu(bn2(conv1(relu(bn1(x)))))).

    Where shapes change, the shortcut is a 1×1 convolution of relu(bn1(x)).

    Reference:
        He et al. (2016), "Identity mappings in deep residual networks", Figure 1b.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(every(branch, self.stride))
        return self.conv2(F.relu(self.bn2(self.conv1(branch)))) + skip


class WideBlockNet(nn.Module):
    """A 3×3 stem of `stem` channels, then stages of `WideBlock`s, `widths[i]` wide and `blocks[i]` deep.

    Each stage but the first halves the image. Takes (B, channels, height, width) images in [0, 1] and returns
    (B, classes) logits. Convolutions start as in He et al. (2015), section 2.2: normal, by fan-out.

    Raises:
        ValueError: A size is not positive.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        stem: int,
        widths: Sequence[int],
        blocks: Sequence[int],
    ):
        super().__init__()
        if min(stem, *widths, *blocks) < 1:
            raise ValueError(f"widths and blocks must be positive, not {[stem, *widths]} and {list(blocks)}")
        self.normalize = Normalize(mean, std)
        self.conv1 = conv3x3(channels, stem)
        self.stages = nn.ModuleList()
        inputs = stem
        for stage, (outputs, depth) in enumerate(zip(widths, blocks, strict=True)):
            layers = []
            for block in range(depth):
                layers.append(WideBlock(inputs, outputs, stride=2 if stage and not block else 1))
                inputs = outputs
            self.stages.append(nn.Sequential(*layers))
        self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.normalize(x))
        for stage in self.stages:
            x = stage(x)
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


class WideResNet(WideBlockNet):
    """WRN-`depth`-`width`: a stem of 16 channels, then three stages of (depth − 4)/6 blocks.

    The stages are 16, 32 and 64 times `width` wide; the last layer's bias starts at 0.

    Raises:
        ValueError: `depth` is not 6n + 4, or a size is not positive.

    Reference:
        Zagoruyko & Komodakis (2016), Table 1, without dropout; initialised as in the code of TRADES.
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
        widths = [16 * width, 32 * width, 64 * width]
        super().__init__(channels, classes, mean, std, 16, widths, [(depth - 4) // 6] * 3)
        nn.init.zeros_(self.linear.bias)

    @staticmethod
    def published_name(name: str) -> str | None:
        """Translate a name in the state dict of the WideResNet that TRADES, AWP and RobustBench share.

        `block2.layer.0.bn1.weight` is `stages.1.0.bn1.weight` here, `convShortcut` is `shortcut`, the last BatchNorm
        `bn1` is `bn`, and `fc` is `linear`. `sub_block1`, which TRADES creates and never calls, has no name here.

        Returns:
            The name in this model, or None for a tensor that has no influence on the logits.
        """
        head, _, tail = name.partition(".")
        if head == "sub_block1":
            return None
        if block := re.fullmatch(r"block(\d+)\.layer\.(.+)", name):
            return f"stages.{int(block[1]) - 1}.{block[2].replace('convShortcut', 'shortcut')}"
        return f"{PUBLISHED.get(head, head)}.{tail}"


def wide_resnet28_10(channels: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> WideResNet:
    """Build WRN-28-10, with 36.5 million parameters."""
    return WideResNet(channels, classes, mean, std, depth=28, width=10)


def wide_resnet34_10(channels: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> WideResNet:
    """Build WRN-34-10, with 46.2 million parameters."""
    return WideResNet(channels, classes, mean, std, depth=34, width=10)

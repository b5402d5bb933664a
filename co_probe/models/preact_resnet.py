"""Pre-activation residual networks for small images."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.models.normalize import Normalize


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class PreActBlock(nn.Module):
    """x + conv2(relu(bn2(conv1(relu(bn1(x)))))). If shapes change, the shortcut is a 1×1 convolution of relu(bn1(x)).

    Source: He et al. (2016), "Identity mappings in deep residual networks", Figure 1b.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.stride = stride
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(x))
        # A stride of 1 on every stride-th pixel is what a 1×1 convolution of that stride computes. oneDNN's own, on a
        # CPU, writes past the end of its memory if there are few channels: github.com/uxlfoundation/oneDNN/issues/6035
        # (Pooling single pixels picks them in one operation, with one to go back; slicing takes two each, and fills.)
        skip = x if self.shortcut is None else self.shortcut(F.avg_pool2d(branch, 1, self.stride))
        return self.conv2(F.relu(self.bn2(self.conv1(branch)))) + skip


class PreActResNet(nn.Module):
    """A 3×3 stem, then stages of PreActBlocks of which each but the first halves the image and doubles the width.

    Takes (B, channels, height, width) images in [0, 1] and returns (B, classes) logits.
    `mean`, `std`: what images are normalised by, a number a channel; `width`: channels of the first stage; `blocks`:
    how many blocks each stage has; `stem`: channels of the stem (`width`, if not given). Convolutions start as in He et
    al. (2015), section 2.2: normal, by fan-out.
    Raises ValueError if a size is not positive.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem: int | None = None,
    ):
        super().__init__()
        inputs = width if stem is None else stem
        if width < 1 or inputs < 1 or not blocks or min(blocks) < 1:
            raise ValueError(f"width, stem and blocks must be positive, not {width}, {inputs} and {list(blocks)}")
        self.normalize = Normalize(mean, std)
        self.conv1 = conv3x3(channels, inputs)
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(blocks):
            outputs = width * 2**stage
            layers = []
            for block in range(depth):
                layers.append(PreActBlock(inputs, outputs, stride=2 if stage and not block else 1))
                inputs = outputs
            self.stages.append(nn.Sequential(*layers))
        self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.normalize(x))
        for stage in self.stages:
            x = stage(x)
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


def preact_resnet18(channels: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> PreActResNet:
    """Pre-ResNet18 for CIFAR-sized images: widths 64, 128, 256, 512, two blocks each; 11.2 million parameters.

    Source: the network of the same name in Wong et al. (2020), and in arXiv 2010.08034.
    """
    return PreActResNet(channels, classes, mean, std, width=64, blocks=(2, 2, 2, 2))

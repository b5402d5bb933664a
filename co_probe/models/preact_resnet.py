"""Pre-activation residual networks for small images, as used in the literature of fast adversarial training."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from co_probe.models.normalize import Normalize


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Make a 3×3 convolution without bias that preserves the image size (divided by `stride`)."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class PreActBlock(nn.Module):
    """x + conv2(relu(bn2(conv1(relu(bn1(x)))))); where shapes change, the shortcut is a 1×1 convolution of x itself.

    The shortcut reads the raw block input, not relu(bn1(x)), as in the networks of fast adversarial training; He et al.
    (2016) activate first. With `activated_shortcut` it reads relu(bn1(x)), as in the wide ResNets
    (`co_probe.models.wide_resnet`).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activated_shortcut: bool = False):
        super().__init__()
        self.stride = stride
        self.activated_shortcut = activated_shortcut
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        same = stride == 1 and inputs == outputs
        # A Sequential, so that the weight is named `shortcut.0.weight` as in published state dicts.
        self.shortcut = None if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False))

    @override
    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(x))
        source = branch if self.activated_shortcut else x
        skip = x if self.shortcut is None else self.shortcut(every(source, self.stride))
        return self.conv2(F.relu(self.bn2(self.conv1(branch)))) + skip


def every(x: Tensor, stride: int) -> Tensor:
    """Return every `stride`-th pixel of `x` (B, C, H, W), in both directions.

    A 1×1 convolution on these pixels equals a strided one on all pixels. oneDNN's strided 1×1 convolution writes out of
    bounds on a CPU if there are few channels: github.com/uxlfoundation/oneDNN/issues/6035. Pooling single pixels takes
    one operation in each direction; slicing takes two.
    """
    return F.avg_pool2d(x, 1, stride)


MOST_BLOCKS = 1000  # ten times the depth of any published network


class PreActResNet(nn.Module):
    """A 3×3 stem, then stages of `PreActBlock`s, each but the first of which halves the image and doubles the width.

    Parameters are initialised by PyTorch's defaults. The `state_dict` of a published PreActResNet18 loads with
    unchanged names (`conv1.weight`, `layer1.0.bn1.weight`, `layer2.0.shortcut.0.weight`, `bn.weight`, `linear.weight`);
    only `normalize.mean` and `normalize.std` are added, since normalisation is the first layer here.

    Two published networks of the same name differ. In that of Rice et al. (2020), "Overfitting in adversarially robust
    deep learning", and of AWP the shortcuts are activated; its state dict has the same names and shapes and loads
    without an error, but needs `activated_shortcut=True` for the same logits. That of Andriushchenko & Flammarion
    (2020) has no BatchNorm and ReLU before its last layer, so `bn.weight` is missing from its state dict.

    Args:
        channels: Channels of the images.
        classes: Number of classes.
        mean: Mean that images are normalised by, one value per channel.
        std: Standard deviation that images are normalised by, one value per channel.
        width: Channels of the stem and of the first stage.
        blocks: Number of blocks in each stage.
        activated_shortcut: Whether shortcuts read relu(bn1(x)) instead of x where shapes change.

    Raises:
        ValueError: A size is not positive.

    Reference:
        The PreActResNet18 of Wong et al. (2020), "Fast is better than free", and of the code released with
        arXiv 2010.08034; same function, same initialisation.
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
        activated_shortcut: bool = False,
    ):
        super().__init__()
        if width < 1 or not blocks or min(blocks) < 1:
            raise ValueError(f"width and blocks must be positive, not {width} and {list(blocks)}")
        if sum(blocks) > MOST_BLOCKS:
            raise ValueError(f"there can be {MOST_BLOCKS} blocks at most, not {sum(blocks)}")
        self.normalize = Normalize(mean, std)
        self.conv1 = conv3x3(channels, width)
        self.stages = len(blocks)
        inputs = width
        for stage, depth in enumerate(blocks):
            outputs = width * 2**stage
            layers = []
            for block in range(depth):
                stride = 2 if stage and not block else 1
                layers.append(PreActBlock(inputs, outputs, stride, activated_shortcut))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.normalize(x))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


def preact_resnet18(
    channels: int, classes: int, mean: Sequence[float], std: Sequence[float], *, activated_shortcut: bool = False
) -> PreActResNet:
    """Build PreActResNet18 for CIFAR-sized images: widths 64, 128, 256, 512, two blocks each; 11.2M parameters."""
    return PreActResNet(channels, classes, mean, std, activated_shortcut=activated_shortcut)

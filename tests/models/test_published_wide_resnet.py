"""The wide residual network with state dicts under the names that TRADES, AWP and RobustBench use."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.models.wide_resnet import WideResNet
from co_probe.runs.state_dicts import StateDict, fit

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class BasicBlock(nn.Module):
    """The published block, with its names."""

    def __init__(self, in_planes: int, out_planes: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_planes, out_planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_planes)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_planes, out_planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.equalInOut = in_planes == out_planes
        self.convShortcut = None if self.equalInOut else nn.Conv2d(in_planes, out_planes, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.equalInOut:
            x = self.relu1(self.bn1(x))
        else:
            out = self.relu1(self.bn1(x))
        out = self.relu2(self.bn2(self.conv1(out if self.equalInOut else x)))
        return torch.add(x if self.convShortcut is None else self.convShortcut(x), self.conv2(out))


class NetworkBlock(nn.Module):
    def __init__(self, layers: int, in_planes: int, out_planes: int, stride: int):
        super().__init__()
        blocks = [
            BasicBlock(in_planes if i == 0 else out_planes, out_planes, stride if i == 0 else 1) for i in range(layers)
        ]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Published(nn.Module):
    """The published network, for images that are normalised already."""

    def __init__(self, depth: int, width: int, sub_block: bool):
        super().__init__()
        channels, n = [16, 16 * width, 32 * width, 64 * width], (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, channels[0], kernel_size=3, stride=1, padding=1, bias=False)
        self.block1 = NetworkBlock(n, channels[0], channels[1], 1)
        if sub_block:  # TRADES creates it and does not call it
            self.sub_block1 = NetworkBlock(n, channels[0], channels[1], 1)
        self.block2 = NetworkBlock(n, channels[1], channels[2], 2)
        self.block3 = NetworkBlock(n, channels[2], channels[3], 2)
        self.bn1 = nn.BatchNorm2d(channels[3])
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(channels[3], 10)
        self.nChannels = channels[3]

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        out = F.avg_pool2d(self.relu(self.bn1(out)), 8)
        return self.fc(out.view(-1, self.nChannels))


def randomise(model: nn.Module) -> None:
    """Random BatchNorm statistics, so that no term is hidden by a 0 or a 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("sub_block", [False, True])
def test_logits_equal_those_of_the_published_network(prefix, sub_block):
    torch.manual_seed(0)
    theirs = Published(16, 2, sub_block).eval()
    randomise(theirs)
    ours = WideResNet(3, 10, MEAN, STD, depth=16, width=2).eval()
    names = {prefix + name: value for name, value in theirs.state_dict().items()}
    fitted = fit(StateDict(names, "file"), ours, optional=["normalize.mean", "normalize.std"])
    ours.load_state_dict(fitted.weights)
    x = torch.rand(4, 3, 32, 32)
    normalised = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(normalised), atol=1e-5, rtol=0)
    assert "co-probe's names" in fitted.note and ("module" in fitted.note) == bool(prefix)


def test_its_own_state_dict_needs_no_translation():
    ours = WideResNet(3, 10, MEAN, STD, depth=10, width=1)
    fitted = fit(StateDict(ours.state_dict(), "file"), ours, optional=["normalize.mean", "normalize.std"])
    assert fitted.note == "" and fitted.weights.keys() == ours.state_dict().keys()

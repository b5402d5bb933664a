"""The pre-activation and wide residual networks against literal copies of the published ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.models.preact_resnet import PreActBlock, PreActResNet, preact_resnet18
from co_probe.models.preact_resnet_v1 import preact_resnet_v1
from co_probe.models.wide_resnet import WideBlock, WideResNet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class PublishedBlock(nn.Module):
    """The block of the PreActResNet18 that the code of Wong et al. (2020) and its descendants train."""

    activates_first = False  # the shortcut of Rice et al. (2020) and AWP sees what the first convolution sees

    def __init__(self, in_planes: int, planes: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out if self.activates_first else x) if hasattr(self, "shortcut") else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        return out + shortcut


class PublishedNet(nn.Module):
    """That PreActResNet18, for images that are normalised already."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.in_planes = width
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
        self.layer1 = self._make_layer(width, 1)
        self.layer2 = self._make_layer(2 * width, 2)
        self.layer3 = self._make_layer(4 * width, 2)
        self.layer4 = self._make_layer(8 * width, 2)
        self.bn = nn.BatchNorm2d(8 * width)
        self.linear = nn.Linear(8 * width, 10)

    def _make_layer(self, planes: int, stride: int) -> nn.Sequential:
        layers = []
        for step in [stride, 1]:
            layers.append(PublishedBlock(self.in_planes, planes, step))
            self.in_planes = planes
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        out = F.relu(self.bn(out))
        out = F.avg_pool2d(out, 4)
        return self.linear(out.view(out.size(0), -1))


class PublishedWideBlock(nn.Module):
    """The block of the WideResNet that TRADES, AWP and RobustBench share."""

    def __init__(self, in_planes: int, out_planes: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, out_planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_planes)
        self.conv2 = nn.Conv2d(out_planes, out_planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.equal = in_planes == out_planes
        self.shortcut = None if self.equal else nn.Conv2d(in_planes, out_planes, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.equal:
            x = F.relu(self.bn1(x))
            out = F.relu(self.bn2(self.conv1(x)))
        else:
            out = F.relu(self.bn2(self.conv1(F.relu(self.bn1(x)))))
        return torch.add(x if self.shortcut is None else self.shortcut(x), self.conv2(out))


def randomise(model: nn.Module) -> None:
    """Random weights and BatchNorm statistics, so that no term is hidden by a 0 or a 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("activated", [False, True])
def test_logits_equal_those_of_the_published_network_with_its_state_dict(mode, activated, monkeypatch):
    torch.manual_seed(0)
    theirs = PublishedNet(16)
    randomise(theirs)
    monkeypatch.setattr(PublishedBlock, "activates_first", activated)
    ours = PreActResNet(3, 10, MEAN, STD, width=16, activated_shortcut=activated)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert sorted(missing) == ["normalize.mean", "normalize.std"] and not unexpected
    x = torch.rand(8, 3, 32, 32)
    for model in (ours, theirs):
        model.train(mode == "train")
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(normalised(x)), rtol=1e-5, atol=1e-5)
    if mode == "train":
        torch.testing.assert_close(ours.bn.running_var, theirs.bn.running_var)


def test_the_18_layer_network_takes_the_published_state_dict():
    theirs = PublishedNet().state_dict()
    ours = preact_resnet18(3, 10, MEAN, STD).state_dict()
    del ours["normalize.mean"], ours["normalize.std"]
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


def test_initial_weights_have_the_published_distribution():
    torch.manual_seed(0)
    ours, theirs = PreActResNet(3, 10, MEAN, STD, width=16).state_dict(), PublishedNet(16).state_dict()
    for name, value in theirs.items():
        if value.ndim > 1:  # a uniform distribution is known by its limit
            assert ours[name].abs().max().item() == pytest.approx(value.abs().max().item(), rel=0.05), name


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(8, 8, 1), (8, 16, 2), (8, 16, 1)])
def test_wide_blocks_equal_the_published_ones(inputs, outputs, stride):
    torch.manual_seed(0)
    theirs = PublishedWideBlock(inputs, outputs, stride).eval()
    randomise(theirs)
    ours = WideBlock(inputs, outputs, stride).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, inputs, 7, 7)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_wide_networks_start_as_published():
    torch.manual_seed(0)
    model = WideResNet(3, 10, MEAN, STD, depth=10, width=4)
    assert not model.linear.bias.any()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_the_network_of_version_1_differs_from_the_published_one_where_shapes_change():
    torch.manual_seed(0)
    old = preact_resnet_v1(3, 10, MEAN, STD, width=8, blocks=[1, 1]).eval()
    new = PreActResNet(3, 10, MEAN, STD, width=8, blocks=[1, 1]).eval()
    names = {
        name: f"layer{int(name[7]) + 1}.{name[9:]}" if name.startswith("stages") else name for name in old.state_dict()
    }
    names = {name: other.replace("shortcut.", "shortcut.0.") for name, other in names.items()}
    new.load_state_dict({names[name]: value for name, value in old.state_dict().items()})
    x = torch.rand(4, 3, 8, 8)
    first = old.stages[0](old.conv1(old.normalize(x)))
    torch.testing.assert_close(first, new.layer1(new.conv1(new.normalize(x))))
    assert not torch.allclose(old(x), new(x), atol=1e-3)


@pytest.mark.parametrize("block", [PreActBlock, WideBlock])
def test_narrow_blocks_train_without_harm_to_memory(block):
    torch.manual_seed(0)
    block = block(4, 8, stride=2).to(memory_format=torch.channels_last)
    weight = block.get_parameter("shortcut.0.weight" if isinstance(block, PreActBlock) else "shortcut.weight")
    x = torch.randn(64, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    gradients = [torch.autograd.grad(block(x).square().sum(), weight)[0] for _ in range(20)]
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=False):
        expected = torch.autograd.grad(block(x).square().sum(), weight)[0]
    for gradient in gradients:
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)
    strides = [m.stride for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert strides == [(1, 1)], "narrow strided 1×1 convolutions corrupt memory in oneDNN"

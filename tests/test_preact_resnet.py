"""The shortcut of a block that halves the image."""

import torch
import torch.nn.functional as F

from co_probe.models.preact_resnet import PreActBlock


def test_a_shortcut_is_the_strided_convolution_that_the_paper_has():
    torch.manual_seed(0)
    block = PreActBlock(8, 16, stride=2).eval()
    x = torch.randn(3, 8, 7, 7)
    branch = F.relu(block.bn1(x))
    skip = F.conv2d(branch, block.shortcut.weight, stride=2)
    torch.testing.assert_close(block(x), block.conv2(F.relu(block.bn2(block.conv1(branch)))) + skip)


def test_narrow_networks_train_without_harm_to_memory():
    torch.manual_seed(0)
    block = PreActBlock(4, 8, stride=2).to(memory_format=torch.channels_last)
    x = torch.randn(64, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    gradients = [torch.autograd.grad(block(x).square().sum(), block.shortcut.weight)[0] for _ in range(20)]
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=False):
        expected = torch.autograd.grad(block(x).square().sum(), block.shortcut.weight)[0]
    for gradient in gradients:
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)

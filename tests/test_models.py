"""Every model takes images in [0, 1], and APART finds the branches of those that are residual."""

import pytest
import torch
from torch import nn

from co_probe.data.augment import View
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.methods.base import Batch, TrainingContext
from co_probe.methods.block_inputs import find_blocks, replaced_inputs
from co_probe.numerics.rng import make_rng
from co_probe.runs.build import new_model

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)

# name, settings, size of the images, number of residual blocks, and the first convolution of the first and last one
RESIDUAL = [
    ("preact_resnet", {"width": 2, "blocks": [1, 2]}, 8, 3, "layer1.0.conv1", "layer2.1.conv1"),
    ("preact_resnet18", {}, 8, 8, "layer1.0.conv1", "layer4.1.conv1"),
    ("wide_resnet", {"depth": 16, "width": 1}, 8, 6, "stages.0.0.conv1", "stages.2.1.conv1"),
    ("torchvision:resnet18", {}, 32, 8, "network.layer1.0.conv1", "network.layer4.1.conv1"),
    ("torchvision:regnet_y_400mf", {}, 32, 16, "network.trunk_output.block1.block1-0.f.a.0", None),
    ("torchvision:mobilenet_v2", {}, 32, 10, "network.features.3.conv.0.0", "network.features.16.conv.0.0"),
    ("torchvision:mobilenet_v3_small", {}, 32, 6, "network.features.3.block.0.0", "network.features.11.block.0.0"),
    ("timm:resnet10t", {}, 32, 4, "network.layer1.0.conv1", "network.layer4.0.conv1"),
    ("timm:resnetv2_18", {}, 32, 8, "network.stages.0.blocks.0.conv1", "network.stages.3.blocks.1.conv1"),
    ("timm:regnetx_002", {}, 32, 13, "network.s1.b1.conv1.conv", "network.s4.b7.conv1.conv"),
    ("timm:convnext_atto", {}, 32, 12, "network.stages.0.blocks.0.conv_dw", "network.stages.3.blocks.1.conv_dw"),
]
LARGE = [
    ("wide_resnet28_10", {}, 8, 12, "stages.0.0.conv1", "stages.2.3.conv1"),
    ("wide_resnet34_10", {}, 8, 15, "stages.0.0.conv1", "stages.2.4.conv1"),
    ("resnet50", {}, 32, 16, "network.layer1.0.conv1", "network.layer4.2.conv1"),
]


def make(name: str, settings: dict | None = None, channels: int = 3, mean=MEAN, std=STD) -> nn.Module:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return new_model(name, settings or {}, (channels, 32, 32), 4, mean[:channels], std[:channels])


def images(size: int, count: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, id=case[0]) for case in RESIDUAL]
    + [pytest.param(case, id=case[0], marks=pytest.mark.slow) for case in LARGE],
)
def residual(request):
    name, settings, size, *expected = request.param
    return name, make(name, settings), images(size), expected


def test_normalisation_is_the_first_layer(residual):
    name, model, x, _ = residual
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    logits = model.eval()(x)
    near = {"rtol": 0, "atol": 1e-3 * logits.abs().max().item()}  # deep networks at their start give small logits
    model.normalize.mean.zero_(), model.normalize.std.fill_(1.0)
    try:
        torch.testing.assert_close(logits, model((x - shift) / scale), **near)
        assert not torch.allclose(logits, model(x), **near)
    finally:
        model.normalize.mean.copy_(shift), model.normalize.std.copy_(scale)
    assert logits.shape == (len(x), 4)


def test_taps_are_the_first_convolutions_of_the_residual_blocks(residual):
    _, model, _, (count, first, last) = residual
    modes = [m.training for m in model.modules()]
    names = list(find_blocks(model))
    assert (len(names), names[0]) == (count, first)
    assert last is None or names[-1] == last
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_a_perturbation_is_seen_by_the_branch_and_never_by_the_shortcut(residual):
    _, model, x, _ = residual
    model.eval()
    blocks = find_blocks(model)
    kept = {name: conv.weight.detach().clone() for name, conv in blocks.items()}

    given, seen = {}, {}

    def shifted(name: str, activation: torch.Tensor) -> torch.Tensor:
        given[name] = activation + 1.0
        return given[name]

    hooks = [
        conv.register_forward_hook(lambda _, inputs, __, name=name: seen.update({name: inputs[0]}))
        for name, conv in blocks.items()
    ]
    with torch.no_grad():
        plain = model(x)
        with replaced_inputs(blocks, shifted):
            model(x)
        assert given.keys() == blocks.keys()
        assert all(seen[name] is given[name] for name in blocks), "each convolution sees its own perturbation"
        for hook in hooks:
            hook.remove()
        for conv in blocks.values():
            conv.weight.zero_()
        # No convolution of a branch passes anything on: if a shortcut saw the perturbation, it would show now.
        with replaced_inputs(blocks, shifted):
            perturbed = model(x)
        assert torch.equal(perturbed, model(x))
        assert not torch.equal(model(x), model(1 - x)), "without the branches the shortcuts still carry the image"
        for name, conv in blocks.items():
            conv.weight.copy_(kept[name])
        assert torch.equal(model(x), plain)


def test_an_apart_step_works(residual):
    _, model, x, (count, *_) = residual
    model.train()
    y = torch.tensor([0, 1])
    size = tuple(x.shape[1:])
    rng = make_rng("cpu", 0, "test")
    method = METHODS.make("apart")
    method.setup(model, TrainingContext(2, size, 0, 10, 0.03, torch.device("cpu"), rng))
    rows = torch.arange(size[1]).expand(2, size[1])
    batch = Batch(x, y, View(torch.arange(2), rows, rows), 0.03, 1.0, rng)
    result = method.step(model, batch)
    assert torch.isfinite(result.loss)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    alphas = method.parameters()["alpha"]
    assert len(alphas) == count + 2
    model.zero_grad()


@pytest.mark.parametrize(
    ("name", "millions"),
    # Counts as others state them: Wong et al.'s PreActResNet18; Zagoruyko & Komodakis, Table 4 (36.5); TRADES (46.2).
    [("preact_resnet18", 11.17), ("wide_resnet28_10", 36.48), ("wide_resnet34_10", 46.16), ("resnet50", 23.53)],
)
def test_sizes_are_the_published_ones(name, millions):
    with torch.device("meta"):
        model = new_model(name, {}, (3, 32, 32), 10, MEAN, STD)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


class Plain(nn.Module):
    """Children with the names that residual blocks use, and no shortcut."""

    def __init__(self, shortcut: bool):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.shortcut = shortcut

    def forward(self, x):
        branch = self.conv2(self.conv1(x).relu_())
        return x + branch if self.shortcut else branch


def test_names_of_children_do_not_make_a_residual_block():
    assert not find_blocks(nn.Sequential(Plain(shortcut=False)))
    assert list(find_blocks(nn.Sequential(Plain(shortcut=True)))) == ["0.conv1"]


@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
@pytest.mark.parametrize("name", ["torchvision:densenet121", "torchvision:squeezenet1_0", "torchvision:googlenet"])
def test_apart_refuses_models_without_residual_blocks(name):
    task = TrainingContext(2, (3, 32, 32), 0, 10, 0.03, torch.device("cpu"), make_rng("cpu", 0, "test"))
    with pytest.raises(ValueError, match=r"no residual block.*apart-simple"):
        METHODS.make("apart").setup(make(name), task)


@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_library_models_take_grey_images_and_give_one_set_of_logits():
    grey = make("torchvision:resnet18", channels=1).train()
    assert grey(images(32, channels=1)).shape == (2, 4)
    auxiliary = make("torchvision:googlenet").train()
    assert isinstance(auxiliary(images(32)), torch.Tensor)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet18", {}, "torchvision:NAME"),
        ("torchvision:resnet19", {}, "unknown torchvision model 'resnet19': did you mean .*resnet18"),
        ("torchvision", {}, "needs its NAME"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "random weights"),
        ("torchvision:resnet18", {"depth": 3}, "depth"),
        ("timm:resnet10t", {"checkpoint_path": "x.pt"}, "random weights"),
        ("timm:hf_hub:someone/model", {}, "unknown timm model"),
        ("wide_resnet", {"depth": 20}, "6n"),
        ("wide_resnet", {"stem": 20}, "unknown setting"),
        ("preact_resnet", {"width": 0}, "positive"),
        ("preact_resnet18:x", {}, "nothing behind a colon"),
    ],
)
def test_failing_constructors_are_reported(name, settings, message):
    with pytest.raises(UserError, match=message):
        make(name, settings)

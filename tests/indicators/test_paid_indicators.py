"""Indicators that are measured per checkpoint, against literal slow versions, and as probes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import co_probe
from co_probe import indicators
from co_probe.indicators import local_linearity
from co_probe.numerics.rng import make_rng


class Ridge(nn.Module):
    """Two classes: the logit of class 0 is high except where the sum of pixels is near `at`."""

    def __init__(self, at: float):
        super().__init__()
        self.at = at

    def forward(self, x):
        total = x.sum((1, 2, 3))
        hill = 4 * (total - self.at).square() - 0.1
        return torch.stack([hill, -hill], 1)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)).train()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.rand(30, 1, 6, 6), torch.arange(30) % 4


def test_local_linearity_error_is_its_formula_example_by_example(network, images):
    (x, y), epsilon = images, 0.3
    errors = indicators.local_linearity_error(network, x, y, epsilon=epsilon, seed=5)
    rng = make_rng("cpu", 5, "local linearity")
    noise = [torch.empty_like(x).uniform_(-epsilon, epsilon, generator=rng) for _ in range(2)]
    a = torch.rand(30, 1, 1, 1, generator=rng)
    network.eval()
    for i in range(30):
        x_a, x_b = (x[i : i + 1] + each[i : i + 1] for each in noise)
        losses = [
            F.cross_entropy(network(point), y[i : i + 1]).item() for point in (x_a, x_b, (1 - a[i]) * x_a + a[i] * x_b)
        ]
        share = a[i].item()
        expected = (losses[2] - (1 - share) * losses[0] - share * losses[1]) ** 2
        assert errors[i].item() == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert errors.mean() > 0


def test_local_linearity_error_of_a_linear_loss_is_zero(images):
    class Linear(nn.Module):
        def forward(self, x):
            # log-softmax of these logits at class 0 is the sum of pixels, so that the loss is linear
            total = x.sum((1, 2, 3)) / 40 - 3
            return torch.stack([total, torch.log1p(-total.exp())], 1)

    x = images[0]
    errors = indicators.local_linearity_error(Linear(), x, torch.zeros(30, dtype=torch.long), epsilon=0.2)
    assert errors.max() < 1e-10


def test_noise_is_uniform_in_the_ball_of_either_norm(images):
    x = images[0].expand(-1, -1, -1, -1).repeat(40, 1, 1, 1)
    rng = make_rng("cpu", 0, "test")
    cube = local_linearity._in_ball(x, 0.1, "linf", rng)
    assert 0.099 < cube.abs().max() <= 0.1 and cube.mean().abs() < 1e-3
    ball = local_linearity._in_ball(x, 2.0, "l2", rng).flatten(1).norm(dim=1)
    d = x[0].numel()
    assert ball.max() <= 2.0 and (ball < 2 * 0.5 ** (1 / d)).float().mean() == pytest.approx(0.5, abs=0.05)


def test_distortion_counts_images_that_are_fooled_between_the_ends():
    # FGSM pushes class 0 towards the valley at 18, and beyond it: right at both ends, wrong between them.
    x = torch.full((4, 1, 6, 6), 0.47)
    x[3] = 0.42  # too far away to be fooled
    y = torch.zeros(4, dtype=torch.long)
    result = indicators.distortion(Ridge(18), x, y, epsilon=0.06, points=100)
    expected = []
    for i in range(4):
        image = x[i : i + 1].clone().requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(Ridge(18)(image), y[i : i + 1]), image)[0]
        path = [Ridge(18)(x[i : i + 1] + k / 100 * 0.06 * gradient.sign()).argmax().item() for k in range(101)]
        assert path[0] == path[-1] == 0
        expected.append(any(label != 0 for label in path))
    assert expected == [True, True, True, False]
    assert result.distorted.tolist() == expected
    assert (result.value, result.denominator, result.n, result.masked) == (0.75, 4, 4, 0)
    low, high = result.interval
    assert low < 0.75 < high
    coarse = indicators.distortion(Ridge(18), x, y, epsilon=0.06, points=2)
    assert coarse.value == 0.75, "the point half-way is in the valley"


def test_the_denominator_of_distortion_leaves_out_wrong_and_flat_images(images):
    x, y = images

    class Flat(nn.Module):
        def forward(self, x):
            return torch.tensor([9.0, 0, 0, 0]).expand(len(x), 4) + 0 * x.sum((1, 2, 3))[:, None]

    flat = indicators.distortion(Flat(), x, y, epsilon=0.1)
    assert flat.value is None and flat.interval is None
    assert (flat.denominator, flat.n, flat.masked) == (0, 30, 1)
    wrong = indicators.distortion(Ridge(18), torch.full((3, 1, 6, 6), 0.5), torch.zeros(3).long(), epsilon=0.01)
    assert wrong.denominator == 0 and wrong.masked in (0, 1)
    with pytest.raises(ValueError, match="points must be at least 2"):
        indicators.distortion(Ridge(18), x, y, epsilon=0.1, points=1)


def test_low_loss_compares_each_clean_loss_with_the_threshold(network, images):
    x, y = images
    low = indicators.low_loss(network, x, y, threshold=1.4)
    network.eval()
    losses = [F.cross_entropy(network(x[i : i + 1]), y[i : i + 1]).item() for i in range(30)]
    assert low.tolist() == [loss < 1.4 for loss in losses] and 0 < low.float().mean() < 1
    with pytest.raises(ValueError, match="at least 0"):
        indicators.low_loss(network, x, y, threshold=-1)


def test_label_signal_is_its_formula_class_by_class(network, images):
    x = images[0]
    result = indicators.label_signal(network, x, epsilon=0.2)
    network.eval()
    raised, dominated = torch.zeros(30, 4), torch.zeros(30, 4)
    for c in range(4):
        grey = torch.full((1, 1, 6, 6), 0.5, requires_grad=True)
        gradient = torch.autograd.grad(F.cross_entropy(network(grey), torch.tensor([c])), grey)[0]
        for i in range(30):
            before, after = network(x[i : i + 1])[0], network((x[i : i + 1] + 0.2 * gradient.sign()).clamp(0, 1))[0]
            raised[i, c], dominated[i, c] = float(after[c] > before[c]), float(after.argmax() == c)
    torch.testing.assert_close(result.raised, raised.mean(1))
    torch.testing.assert_close(result.dominated, dominated.mean(1))
    assert result.value == pytest.approx(raised.mean().item()) and result.masked == 0


def test_classes_without_a_gradient_have_no_label_signal(images):
    class Constant(nn.Module):
        def forward(self, x):
            total = x.sum((1, 2, 3))
            return torch.stack([total, total], 1) * 0

    result = indicators.label_signal(Constant(), images[0], epsilon=0.1)
    assert result.masked == 1 and result.value is None


def test_models_are_left_as_they_were(network, images):
    x, y = images
    before = {name: value.clone() for name, value in network.state_dict().items()}
    indicators.local_linearity_error(network, x, y, epsilon=0.1)
    indicators.distortion(network, x, y, epsilon=0.1)
    indicators.low_loss(network, x, y)
    indicators.label_signal(network, x, epsilon=0.1)
    assert network.training and all(p.grad is None for p in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_probes_store_the_values_of_indicators(runs):
    run = co_probe.open_run(runs / "fgsm")
    model, (x, y), epsilon = run.load_model(3), run.test_data(), run.epsilon
    seed = run.info.probe_seed

    def probed(name: str, quantity: str, **settings):
        frame = co_probe.probe(name, run, epochs="last", device="cpu", **settings)
        return frame[frame["quantity"] == quantity].iloc[0]

    error = indicators.local_linearity_error(model, x, y, epsilon=epsilon, seed=seed)
    assert probed("local-linearity", "linearity-error")["value"] == pytest.approx(error.mean().item(), rel=1e-4)
    distortion = indicators.distortion(model, x, y, epsilon=epsilon, points=5)
    assert probed("distortion", "denominator", points=5)["value"] == pytest.approx(distortion.denominator / len(y))
    if distortion.denominator:
        row = probed("distortion", "distortion", points=5)
        assert (row["value"], row["n"]) == (distortion.value, distortion.denominator)
    train_x, train_y = run.train_data()
    share = indicators.low_loss(model, train_x, train_y, threshold=math.log(10)).float().mean().item()
    assert probed("low-loss", "low-loss", threshold=math.log(10))["value"] == pytest.approx(share)
    signal = indicators.label_signal(model, x, epsilon=epsilon)
    assert probed("label-signal", "raised")["value"] == pytest.approx(signal.value)
    norm = indicators.gradient_norm(model, x, y).mean().item()
    assert probed("gradient-norm", "gradient-norm")["value"] == pytest.approx(norm, rel=1e-5)
    assert probed("gradient-norm", "zero")["value"] == 0

"""Indicators work on any module and tensors, and give what the probes of a run give."""

import pytest
import torch
from torch import nn

import co_probe
from co_probe import indicators
from co_probe.attacks import FGSM, PGD


def classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 4))


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.rand(30, 1, 6, 6), torch.arange(30) % 4


def test_gap_is_the_mean_difference_of_losses(images):
    model, (x, y) = classifier(), images
    result = indicators.gap(model, x, y, epsilon=0.1)
    strong = PGD(epsilon=0.1)(model, x, y, co_probe.numerics.rng.make_rng("cpu", 0, "probe"))
    losses = [
        nn.functional.cross_entropy(model(x + delta), y, reduction="none")
        for delta in (strong, FGSM(epsilon=0.1)(model, x, y))
    ]
    assert result.value == pytest.approx((losses[0] - losses[1]).mean().item(), rel=1e-4, abs=1e-7)
    torch.testing.assert_close(result.per_example, losses[0] - losses[1])
    assert result.low < result.value < result.high
    assert indicators.gap(model, x, y, epsilon=0.1).value == result.value, "the same seed gives the same result"


def test_an_attack_is_given_by_name_as_an_object_or_as_its_perturbations(images):
    model, (x, y) = classifier(), images
    named = indicators.gap(model, x, y, epsilon=0.1, strong="pgd3")
    made = indicators.gap(model, x, y, epsilon=0.1, strong=PGD(epsilon=0.1, steps=3))
    delta = FGSM(epsilon=0.1)(model, x, y)
    given = indicators.gap(model, x, y, epsilon=0.1, strong="pgd3", weak=delta)
    assert named.value == made.value == given.value
    with pytest.raises(ValueError, match="perturbations of shape"):
        indicators.gap(model, x, y, epsilon=0.1, weak=delta[:3])


def test_modes_and_gradients_of_a_model_are_left_as_they_were(images):
    x, y = images
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    indicators.gap(model, x, y, epsilon=0.1)
    indicators.alignment(model, x, y, epsilon=0.1)
    indicators.gradient_norm(model, x, y)
    indicators.curvature(model, x[:4], y[:4])
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_strength_is_the_accuracy_of_the_reference(images):
    (x, y), model, reference = images, classifier(), classifier(1)
    result = indicators.strength(model, reference, x, y, epsilon=0.2)
    delta = FGSM(epsilon=0.2)(model, x, y)
    assert torch.equal(result.correct, reference(x + delta).argmax(1) == y)
    assert result.value == result.correct.float().mean().item() and result.low <= result.value <= result.high
    noise = indicators.noise_accuracy(reference, x, y, epsilon=1e-6, draws=3)
    assert noise.shape == (3, 30) and torch.equal(noise[0], reference(x).argmax(1) == y)


def test_examples_without_a_gradient_have_no_cosine_and_are_counted(images):
    x, y = images

    class HalfFlat(nn.Module):
        def forward(self, x):
            logits = torch.stack([x.sum((1, 2, 3)), x[:, :, 0].sum((1, 2)), -x.sum((1, 2, 3)), x[:, 0, 0, 0]], 1)
            return logits * torch.where(torch.arange(len(x)) % 2 == 0, 1.0, 0.0)[:, None]

    result = indicators.alignment(HalfFlat(), x, y, epsilon=0.01)
    assert len(result.cosine) == 15 and result.masked == 0.5 and (result.cosine > 0.9).all()
    assert len(result.gradient_norm) == 30 and (result.gradient_norm[1::2] == 0).all()
    assert torch.equal(result.gradient_norm, indicators.gradient_norm(HalfFlat(), x, y))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    nn.init.zeros_(flat[1].weight)
    nothing = indicators.alignment(flat, x, y, epsilon=0.01)
    assert nothing.value is None and nothing.masked == 1


def test_spectrum_of_a_cosine_is_its_frequency():
    grid = (torch.arange(8) + 0.5) * torch.pi / 8
    wave = torch.cos(3 * grid)[:, None] * torch.cos(2 * grid)[None]
    shares = indicators.spectrum(torch.stack([wave[None], torch.zeros(1, 8, 8)]))
    assert shares.shape == (1, 8, 8)
    assert shares[0, 3, 2].item() == pytest.approx(1) and shares.sum().item() == pytest.approx(1)
    assert indicators.low_frequency_share(shares, 3).item() == pytest.approx(0, abs=1e-9)
    assert indicators.low_frequency_share(shares, 4).item() == pytest.approx(1)


def test_probes_agree_with_indicators(runs):
    run = co_probe.open_run(runs / "fgsm")
    model, (x, y) = run.load_model(2), run.test_data()
    common = {"epsilon": run.epsilon, "seed": run.config.seed}

    def probed(name: str, quantity: str, **settings) -> float:
        frame = co_probe.probe(name, run, device="cpu", **settings)
        return frame[(frame["epoch"] == 2) & (frame["quantity"] == quantity)]["value"].item()

    assert probed("gap", "gap", against="pgd3") == pytest.approx(
        indicators.gap(model, x, y, strong="pgd3", **common).value, rel=1e-5
    )
    assert probed("alignment", "alignment") == pytest.approx(indicators.alignment(model, x, y, **common).value)
    assert probed("curvature", "curvature") == pytest.approx(
        indicators.curvature(model, x, y, seed=run.config.seed).mean().item()
    )

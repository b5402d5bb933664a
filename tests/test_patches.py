"""The data, the network and the adversaries of the theory of robust memorisation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import memorising_config, tiny_config
from formulas import make_batch
from torch import nn

import co_probe
from co_probe.attacks import CW, FGSM, PGD, AutoAttack, Clean
from co_probe.attacks.named import named_attack
from co_probe.config import Config
from co_probe.data.dataset import Dataset, to_unit
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.methods.base import forward_backward
from co_probe.runs.build import make_data, make_method, make_model, new_model
from co_probe.store import StoredRun
from co_probe.studies.memorisation.attack import Shrink
from co_probe.studies.memorisation.data import patches
from co_probe.studies.memorisation.model import TwoLayerCNN
from co_probe.studies.memorisation.signal import find_signal
from co_probe.training.loop import epochs

D, P = 12, 5


def data(**settings) -> Dataset:
    return patches(**{"train": 30, "test": 20, "dimension": D, "patches": P, "sigma": 0.3, **settings})


def network(width: int = 6, power: int = 3, **given) -> TwoLayerCNN:
    torch.manual_seed(0)
    settings = {"width": width, "power": power, "initial_std": 0.5, **given}
    model = new_model("two_layer_cnn", settings, (D, P, 1), 2, (0.0,) * D, (1.0,) * D)
    assert isinstance(model, TwoLayerCNN)
    return model


def signal_of(made: Dataset) -> torch.Tensor:
    """w*, from how the data are drawn: it is the first thing that is."""
    rng = np.random.RandomState(0)
    signal = torch.from_numpy(rng.standard_normal(made.shape[0]))
    return signal / signal.norm()


# -- data ----------------------------------------------------------------------------------------------------------


def test_moments_of_the_data_are_those_of_the_definition():
    made = data(train=4000, alpha=2.5)
    assert made.shape == (D, P, 1) and made.train_x.dtype == torch.float64 and made.bounds == (-math.inf, math.inf)
    x, y, w = made.train_x[..., 0].transpose(1, 2), 2 * made.train_y - 1, signal_of(made)
    assert w.norm().item() == pytest.approx(1)
    along = x @ w
    place = along.abs().argmax(1)
    index = torch.arange(len(x))
    torch.testing.assert_close(x[index, place], 2.5 * y[:, None] * w)
    noise = x[torch.ones(len(x), P, dtype=torch.bool).scatter(1, place[:, None], False)]
    assert (noise @ w).abs().max() < 1e-12
    n = len(noise)
    covariance = 0.09 * (torch.eye(D) - torch.outer(w, w))
    error = 5 * 0.09 * math.sqrt(2 / n)  # five standard errors of a variance, and more of a covariance
    assert (noise.T @ noise / n - covariance).abs().max() < error
    assert noise.mean(0).abs().max() < 5 * 0.3 / math.sqrt(n)
    share = 5 * math.sqrt(0.25 / len(x))
    assert abs(made.train_y.double().mean() - 0.5) < share
    assert (torch.bincount(place, minlength=P) / len(x) - 1 / P).abs().max() < share


def test_the_same_seed_gives_the_same_data_and_another_others():
    torch.manual_seed(1)
    one = data()
    torch.manual_seed(2), np.random.seed(2)
    two, other = data(), data(seed=1)
    for name in ("train_x", "train_y", "test_x", "test_y"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.equal(one.train_x, other.train_x)


def test_images_keep_their_precision_and_bytes_become_float32():
    assert to_unit(data().train_x).dtype == torch.float64
    assert to_unit(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).dtype == torch.float32
    assert to_unit(torch.zeros(1, 1, 2, 2, dtype=torch.float16)).dtype == torch.float32


def test_the_signal_is_read_off_the_images():
    made = data(alpha=1.5, sigma=2.0)  # noise is longer than the signal
    for x in (made.train_x, made.train_x.float()):
        found, place = find_signal(x, made.train_y)
        torch.testing.assert_close(found.double(), signal_of(made), atol=1e-6, rtol=0)
        along = torch.einsum("bdp,d->bp", made.train_x[..., 0], signal_of(made)).abs()
        assert torch.equal(place, along.argmax(1))
    assert find_signal(made.train_x[:1], made.train_y[:1]) is None, "one image does not tell signal from noise"


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.rand(6, 3, 4, 4), torch.tensor([0, 1] * 3)),
        (torch.ones(6, 3, 4, 4), torch.zeros(6, dtype=torch.long)),  # every patch is that of every image
        (torch.zeros(6, 3, 4, 4), torch.zeros(6, dtype=torch.long)),
        (torch.rand(6, 1, 4, 4), torch.arange(6)),
    ],
)
def test_other_data_have_no_signal(x, y):
    assert find_signal(x, y) is None


# -- network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 3])
def test_the_gradient_equals_one_computed_by_hand(power):
    made, model = data(alpha=1.5), network(power=power)
    batch = make_batch(made.train_x, made.train_y, torch.Generator())
    result = forward_backward(model, made.train_x, batch)
    x, y = made.train_x[..., 0].transpose(1, 2), (2 * made.train_y - 1).double()
    inner = torch.einsum("bpd,srd->bsrp", x, model.filters.detach())
    f = (inner.clamp(min=0) ** power).sum((2, 3)) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert result.loss.item() == pytest.approx(torch.log1p(torch.exp(-y * f)).mean().item(), rel=1e-12)
    outer = -y * torch.sigmoid(-y * f) / len(y)  # ∂ loss / ∂ f
    slope = power * inner.clamp(min=0) ** (power - 1) * (inner > 0)
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    by_hand = torch.einsum("b,s,bsrp,bpd->srd", outer, signs, slope, x)
    torch.testing.assert_close(model.filters.grad, by_hand, rtol=1e-10, atol=1e-14)


def test_its_weights_are_float64_and_start_small():
    model = network()
    assert set(model.state_dict()) == {"filters", "normalize.mean", "normalize.std"}
    assert model.filters.dtype == torch.float64 and [n for n, _ in model.named_parameters()] == ["filters"]
    assert model.filters.detach().std().item() == pytest.approx(0.5, rel=0.2)


# -- adversaries ---------------------------------------------------------------------------------------------------


def test_shrink_reduces_the_signal_by_epsilon_and_changes_nothing_else():
    made, model = data(), network()
    x, y, w = made.test_x, made.test_y, signal_of(made)
    delta = Shrink(epsilon=9.4)(model, x, y)
    before, after = (torch.einsum("bdp,d->bp", z[..., 0], w) for z in (x, x + delta))
    place = before.abs().argmax(1)
    index = torch.arange(len(x))
    torch.testing.assert_close(after[index, place], (2 * y - 1).double() * 0.6)
    torch.testing.assert_close(delta.flatten(1).norm(dim=1), torch.full((len(x),), 9.4, dtype=torch.float64))
    touched = delta[..., 0].abs().sum(1) > 0
    assert torch.equal(touched.nonzero()[:, 1], place) and (touched.sum(1) == 1).all()
    # A second time it goes past zero.
    torch.testing.assert_close(delta, Shrink(epsilon=9.4)(model, x + delta, y))


class Plane(nn.Module):
    """Two classes, logits (0, w·x): the loss rises along w for class 0 and along −w for class 1."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        score = (x * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score], 1)


EVERYWHERE = (-math.inf, math.inf)


def plane() -> tuple[Plane, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    model = Plane(torch.randn(2, 4, 3, generator=rng, dtype=torch.float64))
    return model, torch.rand(6, 2, 4, 3, generator=rng, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])


def lengths(delta):
    return delta.flatten(1).norm(dim=1)


def test_an_l2_step_goes_along_the_gradient_to_the_end_of_the_ball():
    model, x, y = plane()
    sign = torch.where(y == 0, 1.0, -1.0)[:, None, None, None]
    expected = 1.7 * sign * model.weight / model.weight.norm()
    torch.testing.assert_close(FGSM(epsilon=1.7, norm="l2", bounds=EVERYWHERE)(model, x, y), expected)
    steps = PGD(epsilon=1.7, norm="l2", steps=60, bounds=EVERYWHERE)(model, x, y, torch.Generator().manual_seed(1))
    torch.testing.assert_close(steps, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("attack", [FGSM(epsilon=2, norm="l2"), PGD(epsilon=2, norm="l2", steps=7, restarts=2)])
@pytest.mark.parametrize("bounds", [EVERYWHERE, (0.0, 1.0)])
def test_l2_attacks_stay_in_the_ball_and_within_the_bounds(attack, bounds):
    model, x, y = plane()
    delta = replace(attack, bounds=bounds)(model, x, y, torch.Generator().manual_seed(0))
    assert (lengths(delta) <= 2 + 1e-12).all() and (lengths(delta) > 0.5).all()
    assert bounds[0] - 1e-12 <= (x + delta).min() and (x + delta).max() <= bounds[1] + 1e-12
    if bounds[1] == 1:
        assert (lengths(delta) < 2 - 1e-3).any(), "clipping shortens"


def test_starts_fill_the_l2_ball_uniformly():
    x = torch.zeros(4000, 1, 2, 1)
    start = PGD(epsilon=3, norm="l2")._start(x + 0.5, torch.Generator().manual_seed(0))
    assert lengths(start).max() <= 3
    start = PGD(epsilon=3, norm="l2", bounds=EVERYWHERE)._start(x, torch.Generator().manual_seed(0))
    # In two dimensions the share within radius r is (r / ε)².
    for radius in (1.0, 2.0):
        assert (lengths(start) <= radius).double().mean().item() == pytest.approx((radius / 3) ** 2, abs=0.04)
    assert start.mean(0).abs().max() < 0.15


def test_a_zero_gradient_gives_no_step():
    model, x, y = plane()
    model.weight = torch.zeros_like(model.weight)
    assert (FGSM(epsilon=1, norm="l2", bounds=EVERYWHERE)(model, x, y) == 0).all()


def test_l2_pgd_searches_all_patches_and_does_more_harm_than_shrinking():
    made, model = data(alpha=3.0), network()
    x, y = made.test_x, made.test_y
    shrunk = F.cross_entropy(model(x + Shrink(epsilon=2.5)(model, x, y)), y)
    delta = PGD(epsilon=2.5, norm="l2", steps=40, bounds=EVERYWHERE)(model, x, y, torch.Generator().manual_seed(0))
    assert F.cross_entropy(model(x + delta), y) > shrunk
    assert ((delta[..., 0].norm(dim=1) > 1e-3).sum(1) > 1).all()


def test_balls_of_other_norms_do_not_cover_each_other():
    l2, linf = (PGD(epsilon=0.5, norm=norm) for norm in ("l2", "linf"))
    assert not l2.covers(linf) and not linf.covers(l2)
    assert l2.covers(PGD(epsilon=0.5, norm="l2", steps=5)) and l2.covers(Clean())


def test_attack_names_use_the_norm_ball_of_the_run():
    assert named_attack("pgd20", 9.4, "l2") == PGD(epsilon=9.4, steps=20, norm="l2")
    assert named_attack("fgsm", 9.4, "l2") == FGSM(epsilon=9.4, norm="l2")
    assert named_attack("cw", 9.4, "l2") == CW(epsilon=9.4, norm="l2")
    assert named_attack("shrink", 9.4, "l2", EVERYWHERE) == Shrink(epsilon=9.4)
    assert named_attack("aa", 9.4, "l2") == AutoAttack(epsilon=9.4, norm="l2")
    with pytest.raises(UserError, match="shrink is not defined for L∞ balls"):
        named_attack("shrink", 0.1)
    with pytest.raises(ValueError, match="norm must be one of linf, l2, not 'l1'"):
        PGD(epsilon=1, norm="l1")


# -- settings ------------------------------------------------------------------------------------------------------


def test_the_preset_is_the_setting_of_the_trial():
    config = co_probe.config.presets.configure("patches", "shrink")
    assert (config.norm, config.epsilon, config.epochs, config.batch_size) == ("l2", 9.4, 8000, 40)
    sizes = {"train": 40, "test": 1000, "dimension": 200, "patches": 4, "alpha": 10.0, "sigma": 0.1}
    assert config.data.settings == sizes
    assert config.model.settings == {"width": 20, "power": 3, "initial_std": 0.01}
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay) == (0.1, 0, 0)
    assert config.schedule.name == "constant" and make_method(config).replays == 50


def test_epsilon_beyond_1_is_for_l2_balls():
    with pytest.raises(UserError, match="did you mean 8/255"):
        tiny_config("pgd", epsilon=8)
    assert tiny_config("pgd", epsilon=1.5, norm="l2").epsilon == 1.5
    with pytest.raises(UserError, match="unknown norm 'l1': did you mean l2"):
        tiny_config("pgd", norm="l1")


def test_runs_from_before_there_was_a_norm_are_in_linf():
    settings = tiny_config("fgsm").to_dict()
    del settings["norm"]
    assert Config.from_dict(settings) == tiny_config("fgsm")


@pytest.mark.parametrize("name", ["fgsm", "pgd", "standard"])
def test_methods_of_l2_balls_are_measured_in_them(name, tmp_path):
    slow = {"learning_rate": 1e-3}  # so that the loss keeps a gradient
    config = memorising_config(method={"name": name, "replays": 3}, epochs=3, optimizer=slow)
    (metrics,) = epochs(config, tmp_path / "run", device="cpu")
    run = co_probe.open_run(tmp_path / "run")
    assert run.norm == "l2" and math.isfinite(metrics.gap)
    generator, (x, y) = run.generator(1), run.test_data()
    assert generator.norm == "l2" and x.dtype == torch.float64
    rng = torch.Generator().manual_seed(0)
    longest = lengths(generator.perturb(run.load_model(1), x, y, epsilon=run.epsilon, rng=rng)).max().item()
    least, most = {"standard": (0, 0), "fgsm": (9.6, 9.6), "pgd": (9, 9.6)}[name]
    assert least - 1e-6 <= longest <= most + 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": {"name": "apart"}}, "method apart: it has no L2 ball: set norm=linf, and epsilon"),
        ({"norm": "linf", "epsilon": 0.1}, "method shrink: it has no L∞ ball: set norm=l2, and epsilon"),
        ({"data": {"name": "digits"}, "model": {"name": "preact_resnet"}}, "needs images of the data set patches"),
        ({"model": {"width": 0}}, "width, power and initial_std must be greater than 0, not 0, 3 and 0.02"),
        ({"model": {"power": 0}}, "not 8, 0 and 0.02"),
        ({"data": {"name": "digits"}}, "it tells two classes apart, and the data set has 10"),
        ({"data": {"dimension": 1}}, "dimension 2"),
        ({"data": {"patches": 0}}, "must be at least 1"),
        ({"data": {"alpha": -1.0}}, "alpha must be greater than 0 and sigma not negative, not -1 and 0.2"),
        ({"data": {"sigma": "wide"}}, "sigma must be a number, not 'wide'"),
        ({"method": {"replays": 0}}, "replays must be greater than 0, not 0"),
    ],
)
def test_unusable_input_is_refused_in_one_line(settings, message, tmp_path):
    with pytest.raises(UserError) as refused:
        next(epochs(memorising_config(**settings), tmp_path / "run", device="cpu"))
    assert message in str(refused.value) and "\n" not in str(refused.value)


# -- runs ----------------------------------------------------------------------------------------------------------


def test_training_is_full_batch_gradient_descent_on_shrunk_images(tmp_path):
    config = memorising_config(epochs=4, method={"replays": 4})
    list(epochs(config, tmp_path / "run", device="cpu"))
    made = make_data(config)
    torch.manual_seed(co_probe.numerics.rng.derive_seed(config.seed, "initial weights"))
    model = make_model(config, made)
    shrunk = made.train_x + Shrink(epsilon=9.6)(model, made.train_x, made.train_y)
    for _ in range(4):
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(shrunk), made.train_y), model.filters)
        with torch.no_grad():
            model.filters -= 0.3 * gradient
    weights = StoredRun(tmp_path / "run").weights(1)
    assert weights["filters"].dtype == np.float64
    np.testing.assert_allclose(weights["filters"], model.filters.detach().numpy(), rtol=1e-10, atol=1e-14)


def test_the_same_seed_gives_the_same_bits_also_after_resuming(tmp_path, memorising):
    config = memorising_config()
    first = epochs(config, tmp_path / "run", device="cpu")
    for _ in range(5):
        next(first)
    first.close()
    list(epochs(config, tmp_path / "run", device="cpu", resume=True))
    one, two = (StoredRun(path).weights(24)["filters"] for path in (tmp_path / "run", memorising))
    np.testing.assert_array_equal(one, two)


def test_replays_are_a_setting_of_every_method():
    assert METHODS.make("fgsm", replays=5).replays == 5

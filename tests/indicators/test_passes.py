"""What hooks see of a training step, against gradients computed by hand; and that nothing else changes."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_config
from torch import Tensor, nn

from co_probe.indicators.passes import PassObserver
from co_probe.indicators.pert_alignment import pert_alignment
from co_probe.indicators.steps import NAMES, StepSeries, labels_of, loss_scale, step_indicators
from co_probe.runs import open_run
from co_probe.training.loop import epochs

CLASSES = 4


def images(seed: int = 0, count: int = 6) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 6, 6, generator=rng), torch.randint(CLASSES, (count,), generator=rng)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, CLASSES))


def attack(model: nn.Module, x: Tensor, y: Tensor, steps: int = 1) -> Tensor:
    """The images that are trained on, without a graph."""
    adversarial = x.clone()
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(model(adversarial), y), adversarial)[0]
        adversarial = adversarial + 0.1 * gradient.sign()
    return adversarial.detach()


def gradient_at(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The input gradient of a copy of the model, which leaves the model alone."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(copy.deepcopy(model)(x), y), x)[0]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_first_pass_is_the_attack_and_the_last_the_update(steps):
    model, (x, y) = network(), images()
    expected = gradient_at(model, x, y)
    observer = PassObserver(model)
    adversarial = attack(model, x, y, steps)
    F.cross_entropy(model(adversarial), y).backward()
    ((first, last),) = observer.take()
    torch.testing.assert_close(first.gradient, expected)
    torch.testing.assert_close(last.gradient, gradient_at(model, adversarial, y))
    torch.testing.assert_close(last.logits, model(adversarial).detach())
    assert not first.asked and last.asked and adversarial.grad is None
    assert torch.equal(labels_of(last), y)


def test_accumulated_steps_are_separated():
    model, batches = network(), [images(seed) for seed in range(3)]
    observer = PassObserver(model)
    for x, y in batches:
        F.cross_entropy(model(attack(model, x, y, steps=2)), y).backward()
    pairs = observer.take()
    assert len(pairs) == 3
    for (first, last), (x, y) in zip(pairs, batches, strict=True):
        torch.testing.assert_close(first.gradient, gradient_at(model, x, y))
        assert torch.equal(labels_of(last), y)


def test_a_clean_pass_after_the_attack_is_not_the_update():
    """As in TRADES: attack, clean images, adversarial images, one backward pass."""
    model, (x, y) = network(), images()
    observer = PassObserver(model)
    adversarial = attack(model, x, y)
    clean = model(x)
    (F.cross_entropy(clean, y) + F.cross_entropy(model(adversarial), y)).backward()
    ((_, last),) = observer.take()
    torch.testing.assert_close(last.gradient, gradient_at(model, adversarial, y))


def test_clean_training_is_not_guarded():
    model, (x, y) = network(), images()
    observer, seen = PassObserver(model), []
    model[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].requires_grad))
    F.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        model(x)
    assert observer.take() == [] and seen == [False, False]


def test_a_copy_of_the_model_is_not_observed():
    model, (x, y) = network(), images()
    observer = PassObserver(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        F.cross_entropy(other(attack(other, x, y)), y).backward()
    assert observer.take() == []
    observer.remove()
    F.cross_entropy(model(attack(model, x, y)), y).backward()
    assert observer.take() == []


def test_a_model_with_keywords_and_a_tuple():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, *, pixel_values):
            return self.network(pixel_values), "features"

    model, (x, y) = Odd(), images()
    expected = gradient_at(model.network, x, y)
    observer = PassObserver(model)
    x.requires_grad_()
    F.cross_entropy(model(pixel_values=x)[0], y).backward()
    F.cross_entropy(model(pixel_values=(x + 0.1 * x.grad.sign()).detach())[0], y).backward()
    ((first, _),) = observer.take()
    torch.testing.assert_close(first.gradient, expected)


def test_outside_of_compiled_code_passes_are_seen_and_inside_they_are_not():
    model, (x, y) = network(), images()
    inside = PassObserver(model)
    compiled = torch.compile(model, backend="aot_eager")
    outside = PassObserver(compiled)
    expected = gradient_at(model, x, y)
    F.cross_entropy(compiled(attack(compiled, x, y)), y).backward()
    ((first, _),) = outside.take()
    torch.testing.assert_close(first.gradient, expected)
    assert inside.take() == []


@pytest.mark.parametrize("factor", [1.0, 1 / 6, 1024.0])
def test_the_scale_of_a_loss_is_read_off_the_logits(factor):
    logits = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = images()[1]
    gradient = torch.autograd.grad(factor * F.cross_entropy(logits, y, reduction="sum"), logits)[0]
    assert loss_scale(logits.detach(), gradient, y).item() == pytest.approx(factor, rel=1e-4)
    assert loss_scale(logits.detach(), torch.ones_like(gradient), y).isnan()


def test_indicators_do_not_depend_on_the_scale_of_losses():
    model, (x, y) = network(), images()
    found = []
    for attack_scale, update_scale in ((1.0, 1.0), (len(y), 512.0)):
        observer = PassObserver(model)
        start = x.clone().requires_grad_()
        gradient = torch.autograd.grad(attack_scale * F.cross_entropy(model(start), y), start)[0]
        (update_scale * F.cross_entropy(model(x + 0.02 * gradient.sign()), y)).backward()
        ((first, last),) = observer.take()
        observer.remove()
        columns = zip(*((p.gradient, p.logits, p.logit_gradient) for p in (first, last)), strict=True)
        found.append(step_indicators(*columns, y))
    assert found[0].keys() == set(NAMES)
    for name in NAMES:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-3, atol=1e-4, equal_nan=True)
    assert 0.2 < found[0]["linearity"].item() <= 1


def test_a_series_has_a_value_for_each_step_whatever_the_batch():
    model = network()
    series, expected = StepSeries(model), []
    for seed, count in enumerate((6, 6, 3, 6)):
        x, y = images(seed, count)
        with series.step(y):
            adversarial = attack(model, x, y)
            F.cross_entropy(model(adversarial), y).backward()
        expected.append(pert_alignment(gradient_at(model, x, y), gradient_at(model, adversarial, y)).item())
    with series.step(y):
        model(x)  # no attack
    model(attack(model, x, y))  # outside of steps
    found = series.take()
    assert found["pert_alignment"].tolist() == pytest.approx([*expected, math.nan], abs=1e-5, nan_ok=True)
    assert series.take() == {}


ATTACKING = ("fgsm", "fgsm-rs", "n-fgsm", "pgd", "apart", "atta", "s-fgsm", "grad-align", "trades")


@pytest.mark.parametrize("method", [*ATTACKING, "free", "standard"])
def test_the_loop_records_the_indicators_of_every_method_and_trains_the_same_weights(method, tmp_path):
    budget, runs = 8 if method == "free" else 1, []
    for name, on in (("with", True), ("without", False)):
        config = tiny_config(method, epochs=budget, step_indicators=on, data={"limit": 600})
        list(epochs(config, tmp_path / name, device="cpu"))
        runs.append(open_run(tmp_path / name))
    watched, plain = (run.step_series(1) for run in runs)
    assert set(plain) == {"loss", "train_accuracy"} and set(watched) == set(plain) | set(NAMES)
    assert len({len(values) for values in watched.values()}) == 1
    undefined = {name for name in NAMES if np.isnan(watched[name]).all()}
    if method in ATTACKING:
        assert undefined <= {"abnormal_change"} | ({"linearity"} if method == "trades" else set())
        assert (np.abs(watched["pert_alignment"]) <= 1).all() and (watched["zero_gradients"] < 0.5).all()
    else:
        assert undefined == set(NAMES)
    for name in plain:
        assert np.array_equal(plain[name], watched[name])
    with_them, without = (run.weights(1) for run in runs)
    assert all(np.array_equal(with_them[key], without[key]) for key in without)

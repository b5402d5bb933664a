"""FastAdv+: what it trains on before and after a drop, and what it watches."""

import pytest
import torch
from conftest import TINY
from formulas import (
    COUNT,
    EPSILON,
    SIZE,
    images,
    make_batch,
    normed_model,
    seeded,
    small_model,
)

import co_probe
from co_probe.attacks import PGD
from co_probe.config.presets import configure
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.methods.base import TrainingContext
from co_probe.methods.fast_adv_plus import FastAdvPlus
from co_probe.numerics.rng import make_rng
from co_probe.training.loop import epochs


def started(model, watched=None, **settings) -> FastAdvPlus:
    method = METHODS.make("fast-adv-plus", **settings)
    context = TrainingContext(
        COUNT,
        SIZE,
        0,
        10,
        EPSILON,
        torch.device("cpu"),
        seeded(7),
        watched=watched and (lambda count: (watched[0][:count], watched[1][:count])),
    )
    method.setup(model, context)
    return method


def tiny(**settings):
    return configure("digits", "fast-adv-plus", TINY, settings)


def blocks(monkeypatch, accuracies, steps, **settings):
    """For each update, whether it trained on PGD, with accuracies given by hand for the checks."""
    model, (x, y), given = small_model(), images(4), iter(accuracies)
    method = started(model, images(4), every=3, **settings)
    monkeypatch.setattr(
        "co_probe.methods.fast_adv_plus.is_correct", lambda *_: torch.full((4,), next(given), dtype=torch.float64)
    )
    seen = []
    for number in range(steps):
        delta = method.perturb(model, x, y, epsilon=EPSILON, rng=seeded(number))
        fast = METHODS.make("fgsm-rs").perturb(model, x, y, epsilon=EPSILON, rng=seeded(number))
        strong = PGD(epsilon=EPSILON, steps=10)(model, x, y, seeded(number))
        assert not torch.equal(fast, strong)
        seen.append(torch.equal(delta, strong))
        assert torch.equal(delta, strong if seen[-1] else fast)
        method.step(model, make_batch(x, y, seeded()))
        method.update()
    return "".join("P" if each else "." for each in seen)


def test_a_drop_brings_a_block_of_pgd(monkeypatch):
    # Checks after updates 3, 6, ...: 0.52 is less than 0.1 below the best so far, 0.5 and 0.4 are more.
    assert blocks(monkeypatch, [0.5, 0.61, 0.52, 0.5, 0.6, 0.4, 0.45], 21) == "." * 12 + "PPP...PPP"


def test_a_drop_from_the_last_check(monkeypatch):
    accuracies = [0.5, 0.61, 0.52, 0.5, 0.6, 0.4, 0.45]
    assert blocks(monkeypatch, accuracies, 21, reference="last") == "." * 18 + "PPP"


def test_accuracy_stays_down_and_so_does_pgd(monkeypatch):
    assert blocks(monkeypatch, [0.9, 0.2, 0.2, 0.2], 12) == "......PPPPPP"


def test_a_check_measures_pgd_accuracy_without_side_effects():
    model, (x, y) = normed_model().train(), images()
    x = x.float()
    method = started(model, (x, y), every=1, images=30)
    method.step(model, make_batch(x, y, seeded()))
    calls, state = [], {name: value.clone() for name, value in model.state_dict().items()}
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    method.update()
    assert not calls and model.training  # hooks, which indicators hang on, see nothing of it
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    robust = PGD(epsilon=EPSILON, steps=10).generate(model.eval(), x[:30], y[:30], make_rng("cpu", 0, "fast-adv-plus"))
    assert method.accuracy == (model(x[:30] + robust).argmax(1) == y[:30]).double().mean()


def test_outside_of_a_run_it_watches_the_first_batch():
    model, (x, y) = small_model(), images()
    method = started(model, every=2)
    for start in (0, 10):
        method.step(model, make_batch(x[start : start + 10], y[start : start + 10], seeded()))
        method.update()
    assert torch.equal(method._watched[0], x[:10])


@pytest.mark.parametrize("held_out", [0, 50])
def test_in_a_run_it_watches_images_that_are_held_out_if_there_are_any(held_out, tmp_path, monkeypatch):
    seen = []
    check = FastAdvPlus._check
    monkeypatch.setattr(FastAdvPlus, "_check", lambda self, model, x, y: (seen.append(x), check(self, model, x, y)))
    config = tiny(epochs=1, method={"every": 2}, probe={"test": 20, "train": 20, "validation": held_out})
    list(epochs(config, tmp_path / "run", device="cpu"))
    run = co_probe.open_run(tmp_path / "run")
    assert len(seen) >= 2 and len(seen[0]) == (held_out or 128)
    assert all(torch.equal(each, seen[0]) for each in seen)
    if held_out:
        validation = {image.numpy().tobytes() for image in run.validation_data()[0]}
        assert {image.numpy().tobytes() for image in seen[0]} == validation


def test_going_on_within_a_block_gives_the_same_bits(tmp_path):
    """Every check is a drop, and a block reaches into the next epoch."""
    settings = {"method": {"every": 4, "drop": 1e-9, "steps": 1, "images": 16}, "epochs": 3}
    list(epochs(tiny(**settings), tmp_path / "whole", device="cpu"))
    training = epochs(tiny(**settings), tmp_path / "parts", device="cpu")
    next(training), next(training)
    training.close()
    list(epochs(tiny(**settings), tmp_path / "parts", device="cpu", resume=True))
    whole, parts = (co_probe.open_run(tmp_path / name) for name in ("whole", "parts"))
    assert all((whole.weights(3)[name] == value).all() for name, value in parts.weights(3).items())
    assert whole.method_parameters(3) == parts.method_parameters(3)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"every": 0}, "every"), ({"drop": 0}, "drop"), ({"reference": "mean"}, "reference"), ({"images": 0}, "images")],
)
def test_settings_out_of_range_are_named(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        METHODS.make("fast-adv-plus", **settings)

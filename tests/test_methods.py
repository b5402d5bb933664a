"""Each training method against a slow version of its formula, image by image; and every method through the loop."""

import math
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
from formulas import (
    COUNT,
    EPSILON,
    ROUNDED,
    SIZE,
    SLOW,
    assert_gradients,
    crop,
    images,
    into_image,
    make,
    make_batch,
    normed_model,
    paste,
    plain_view,
    seeded,
    sign_of,
    slow_cross_entropy,
    slow_fgsm,
    slow_misalignment,
    slow_s_fgsm,
    slow_trades_loss,
    small_model,
    uniform,
    weight_gradients,
)
from torch import nn

from co_probe.config import Config
from co_probe.data.augment import random_view
from co_probe.data.dataset import Dataset
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.store import StoredRun
from co_probe.training.loop import epochs
from co_probe.training.metrics import EpochMetrics
from co_probe.training.schedules import triangular

EVERY = [(name, {}) for name in METHODS if name != "shrink"] + [  # which has data and tests of its own
    ("apart", {"learn_initialisation": False}),
    ("atta", {"steps": 2}),
    ("free", {"replays": 1}),
    ("grad-align", {"base": "fgsm-rs"}),
    ("grad-align", {"detach": True}),
    ("elle", {"base": "n-fgsm"}),
    ("aaer", {"base": "fgsm-rs"}),
    ("fgsm-pgi", {"prior": "ep"}),
    ("fgsm-pgi", {"prior": "bp"}),
    ("s-fgsm", {"checkpoints": 1}),
]
IDS = [" ".join([name, *(f"{k}={v}" for k, v in settings.items())]) for name, settings in EVERY]


@pytest.mark.parametrize("name", SLOW)
def test_perturbation_is_the_formula(name):
    model, (x, y) = small_model(), images()
    delta = METHODS.make(name).perturb(model, x, y, epsilon=EPSILON, rng=seeded())
    expected = torch.stack(SLOW[name](model, x, y, seeded()))
    torch.testing.assert_close(delta, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["standard", "fgsm", "fgsm-rs", "n-fgsm", "s-fgsm", "trades"])
def test_weight_gradient_is_the_formula(name):
    model, (x, y) = small_model(), images()
    result = make(name, model).step(model, make_batch(x, y, seeded()))
    deltas = SLOW[name](model, x, y, seeded())
    loss = (slow_trades_loss if name == "trades" else slow_cross_entropy)(model, x, y, deltas, None)
    assert_gradients(model, weight_gradients(model, loss))
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-9)
    right = sum(model((a + d)[None])[0].argmax() == b for a, b, d in zip(x, y, deltas, strict=True))
    assert result.correct == right


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("base", ["fgsm", "fgsm-rs"])
def test_grad_align_descends_loss_and_misalignment(base, detach):
    model, (x, y), rng = small_model(), images(), seeded()
    result = make("grad-align", model, base=base, detach=detach).step(model, make_batch(x, y, seeded()))
    noise = uniform(x, EPSILON, rng)
    deltas = SLOW[base](model, x, y, rng)
    loss = slow_cross_entropy(model, x, y, deltas) + 0.2 * slow_misalignment(model, x, y, noise, detach)
    assert_gradients(model, weight_gradients(model, loss))
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-9)


def test_grad_align_in_eval_mode_descends_a_function_of_the_old_statistics():
    """Those that the perturbation pass used, which the pass after it has moved."""
    x, y = images()
    model = normed_model().double().train()
    model(x * 0.3)  # now they differ from the batch's
    frozen, moving = deepcopy(model).eval(), deepcopy(model)
    make("grad-align", model, batchnorm="eval").step(model, make_batch(x, y, seeded()))
    delta = torch.stack(slow_fgsm(frozen, x, y, None))
    descent = weight_gradients(moving, nn.functional.cross_entropy(moving(x + delta), y))
    alignment = weight_gradients(frozen, 0.2 * slow_misalignment(frozen, x, y, uniform(x, EPSILON, seeded())))
    assert_gradients(model, [a + b for a, b in zip(descent, alignment, strict=True)])


def test_grad_align_leaves_out_images_without_gradient():
    model, (x, y) = small_model(), images(6)
    blind = nn.Sequential(Blind(3), model)  # the first three images reach the model as a constant
    make("grad-align", model).step(blind, make_batch(x, y, seeded()))
    noise = uniform(x, EPSILON, seeded())
    rest = slow_misalignment(model, x[3:], y[3:], noise[3:])
    deltas = [*([torch.zeros(SIZE)] * 3), *slow_fgsm(model, x[3:], y[3:], None)]
    seen = torch.cat([torch.full_like(x[:3], 0.5), x[3:]])
    assert_gradients(model, weight_gradients(model, slow_cross_entropy(model, seen, y, deltas) + 0.2 * rest))


class Blind(nn.Module):
    """Shows the first `count` images of a batch as grey."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x):
        return torch.cat([x[: self.count] * 0 + 0.5, x[self.count :]])


def test_grad_align_without_any_gradient_is_its_base():
    model, (x, y) = small_model(), images(6)
    make("grad-align", model).step(nn.Sequential(Blind(6), model), make_batch(x, y, seeded()))
    grey = torch.full_like(x, 0.5)
    assert_gradients(model, weight_gradients(model, slow_cross_entropy(model, grey, y, torch.zeros_like(x))))


def test_s_fgsm_takes_every_share():
    """The images of the tests above meet every case: clean, a part of the way, and all of it."""
    model, (x, y) = small_model(), images()
    delta = METHODS.make("s-fgsm").perturb(model, x, y, epsilon=EPSILON, rng=seeded())
    full = METHODS.make("fgsm-rs").perturb(model, x, y, epsilon=EPSILON, rng=seeded())
    share = delta.abs().amax((1, 2, 3)) / full.abs().amax((1, 2, 3))
    assert sorted({round(s * 3) for s in share.tolist()}) == [0, 1, 2, 3]
    assert share.sub((share * 3).round() / 3).abs().max() < 1e-12


def test_s_fgsm_without_checkpoints_is_fgsm_rs_but_for_images_that_are_wrong_at_the_start():
    model, (x, y) = small_model(), images()
    delta = METHODS.make("s-fgsm", checkpoints=1).perturb(model, x, y, epsilon=EPSILON, rng=seeded())
    expected = torch.stack(slow_s_fgsm(model, x, y, seeded(), checkpoints=1))
    torch.testing.assert_close(delta, expected, rtol=0, atol=1e-12)
    full = METHODS.make("fgsm-rs").perturb(model, x, y, epsilon=EPSILON, rng=seeded())
    kept = delta.flatten(1).any(1)
    assert kept.any() and not kept.all()
    assert torch.equal(delta[kept], full[kept])


def test_n_fgsm_leaves_the_ball():
    model, (x, y) = small_model(), images()
    delta = METHODS.make("n-fgsm").perturb(model, x, y, epsilon=EPSILON, rng=seeded())
    assert 2 * EPSILON < delta.abs().max() <= 3 * EPSILON + 1e-12


# -- free ------------------------------------------------------------------------------------------------------------


def test_free_is_its_algorithm():
    """Three replays of four batches, the last but one smaller, with the weights moving in between."""
    model, slow, (x, y) = small_model(), small_model(), images(20)
    method = make("free", model, replays=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    deltas = [torch.zeros(SIZE, dtype=torch.float64) for _ in range(6)]
    for start, end in ((0, 6), (6, 12), (12, 14), (14, 20)):
        for _ in range(method.replays):
            optimizer.zero_grad()
            method.step(model, make_batch(x[start:end], y[start:end], seeded()))

            places = range(end - start)
            seen = [torch.clip(x[start + i] + deltas[i], 0, 1) for i in places]
            expected = weight_gradients(slow, slow_cross_entropy(slow, seen, y[start:end], [0] * len(seen)))
            for i in places:
                ascent = deltas[i] + EPSILON * sign_of(slow, seen[i], y[start + i])
                deltas[i] = torch.clip(ascent, -EPSILON, EPSILON)
            assert_gradients(model, expected, ROUNDED)
            torch.testing.assert_close(method.delta.double(), torch.stack(deltas), rtol=0, atol=1e-7)

            optimizer.step()
            with torch.no_grad():
                for parameter, gradient in zip(slow.parameters(), expected, strict=True):
                    parameter -= 0.1 * gradient
    assert torch.stack(deltas).abs().max() == EPSILON


def test_free_without_replays_trains_once_on_what_the_batch_before_left():
    """m = 1: first on clean images; on the same images again, with weights at rest, on those of FGSM."""
    model, (x, y) = small_model(), images()
    method = make("free", model, replays=1)
    for other in ("standard", "fgsm"):
        make(other, model).step(model, make_batch(x, y, seeded()))
        expected = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        method.step(model, make_batch(x, y, seeded()))
        assert_gradients(model, expected, ROUNDED)
        model.zero_grad()


# -- ATTA ------------------------------------------------------------------------------------------------------------


def slow_atta(model, image, label, start, steps, step_size):
    delta = into_image(image, torch.clip(start, -EPSILON, EPSILON))
    for _ in range(steps):
        ascent = delta + step_size * sign_of(model, image + delta, label)
        delta = into_image(image, torch.clip(ascent, -EPSILON, EPSILON))
    return delta


@pytest.mark.parametrize(("steps", "step_size"), [(1, EPSILON / 2), (3, EPSILON / 3), (4, EPSILON / 4)])
def test_atta_follows_the_perturbation_of_an_image_through_crops_and_flips(steps, step_size):
    model, (x, y) = small_model(), images(9)
    method = make("atta", model, count=9, padding=2, steps=steps)
    padded = torch.nn.functional.pad(x, (2,) * 4)
    kept = [delta.double() for delta in method.delta.clone()]
    rng, flips, corners = seeded(), set(), set()
    for _ in range(3):
        for index in torch.randperm(9, generator=rng).split(5):
            view = random_view(index, (6, 6), 2, True, rng)
            model.zero_grad()
            method.step(model, make_batch(view.take(padded), y[index], rng, view))

            seen, deltas = [], []
            for place, number in enumerate(index.tolist()):
                flipped = bool(view.columns[place, 0] > view.columns[place, 1])
                top, left = int(view.rows[place].min()), int(view.columns[place].min())
                flips.add(flipped)
                corners.add((top, left))
                image = crop(padded[number], top, left, flipped)
                delta = slow_atta(model, image, y[number], crop(kept[number], top, left, flipped), steps, step_size)
                paste(kept[number], delta, top, left, flipped)
                seen.append(image)
                deltas.append(delta)
            loss = slow_cross_entropy(model, seen, y[index], deltas)
            assert_gradients(model, weight_gradients(model, loss), ROUNDED)
            torch.testing.assert_close(method.delta.double(), torch.stack(kept), rtol=0, atol=1e-7)
    assert flips == {False, True} and len(corners) > 5
    some = torch.tensor([4, 1])
    expected = torch.stack([kept[4], kept[1]])[:, :, 2:8, 2:8]
    torch.testing.assert_close(method.image_state(some).double(), expected, rtol=0, atol=1e-7)


def test_atta_starts_from_zero_on_new_images_and_from_the_stored_state_on_others():
    model, (x, y) = small_model(), images()
    method, state = METHODS.make("atta", steps=2), 0.5 * uniform(x, EPSILON, seeded())
    for start, delta in (
        (torch.zeros_like(x), method.perturb(model, x, y, epsilon=EPSILON)),
        (state, method.perturb(model, x, y, epsilon=EPSILON, state=state)),
    ):
        slow = [slow_atta(model, a, b, s, 2, EPSILON / 3) for a, b, s in zip(x, y, start, strict=True)]
        torch.testing.assert_close(delta, torch.stack(slow), rtol=0, atol=1e-12)


def test_atta_starts_afresh_every_so_many_epochs():
    model, (x, y) = small_model(), images()
    method, start = make("atta", model, reset=3), {}
    for epoch in range(1, 8):
        before = method.delta.clone()
        method.start_epoch(epoch, seeded(epoch))
        start[epoch] = not torch.equal(before, method.delta)
        method.step(model, make_batch(x, y, seeded()))
    assert [epoch for epoch, afresh in start.items() if afresh] == [3, 6]


def test_atta_that_resets_each_epoch_forgets():
    """R = 1: K steps from fresh noise, whatever the epochs before did."""
    model, (x, y) = small_model(), images()
    deltas = []
    for past in (0, 3):
        method = make("atta", model, reset=1, steps=2)
        for epoch in range(past):
            method.start_epoch(epoch, seeded(epoch))
            method.step(model, make_batch(x, y, seeded()))
        method.start_epoch(past, seeded(99))
        noise = method.delta.clone()
        method.step(model, make_batch(x, y, seeded()))
        deltas.append(method.delta)
    assert torch.equal(*deltas)
    slow = [slow_atta(model, a, b, s, 2, EPSILON / 3) for a, b, s in zip(x, y, noise, strict=True)]
    torch.testing.assert_close(deltas[0].double(), torch.stack(slow), rtol=0, atol=1e-7)


def test_atta_of_one_full_step_from_zero_that_resets_each_epoch_is_fgsm(tiny_data, tmp_path):
    bare = {"steps": 1, "reset": 1, "step_size": EPSILON, "initial_noise": 0.0, "batchnorm": "both"}
    finish(tiny_config("atta", augmentation={}, **bare), tmp_path / "atta")
    finish(tiny_config("fgsm", augmentation={}), tmp_path / "fgsm")
    assert_same_weights(tmp_path / "atta", tmp_path / "fgsm", 3)
    finish(tiny_config("atta", augmentation={}, **bare | {"reset": 100}), tmp_path / "remembers")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "remembers", tmp_path / "fgsm", 3)


# -- what all have in common -----------------------------------------------------------------------------------------


def test_apart_without_learned_initialisation_starts_from_zero_and_stores_no_state():
    model, (x, y) = small_model(), images()
    method = make("apart-simple", model, learn_initialisation=False, initial_step=0.5)
    for _ in range(2):
        alpha = method.parameters()["alpha"]
        assert list(alpha) == ["input"]
        model.zero_grad()
        method.step(model, make_batch(x, y, seeded()))
        method.update()
        slow = [alpha["input"] * EPSILON * sign_of(model, a, b) for a, b in zip(x, y, strict=True)]
        slow = [into_image(a, d) for a, d in zip(x, slow, strict=True)]
        assert_gradients(model, weight_gradients(model, slow_cross_entropy(model, x, y, slow)), ROUNDED)
    assert method.parameters()["alpha"]["input"] != alpha["input"]  # it learns
    assert method.image_state(torch.tensor([0])) is None
    assert not any(tensor.numel() > 2 for tensor in method.state_dict().values())
    other = METHODS.make("apart-simple", learn_initialisation=False)
    other.load_parameters(method.parameters())
    assert torch.equal(*(each.perturb(model, x, y, epsilon=EPSILON) for each in (other, method)))


@pytest.mark.parametrize(("name", "settings"), EVERY, ids=IDS)
def test_perturb_stays_in_bounds_and_does_not_change_weights(name, settings):
    if name == "apart":
        settings = {"initial_step": 0.9, **settings}
        model: nn.Module = Residual()
    else:
        model = normed_model()
    x, y = images()
    x = x.float()
    method = make(name, model, **settings)
    delta = method.perturb(model.eval(), x, y, epsilon=0.25, rng=seeded())
    assert delta.shape == x.shape and not delta.requires_grad
    assert (x + delta).min() >= 0 and (x + delta).max() <= 1 + 1e-6
    if name in ("n-fgsm", "sora") or (name, settings) in (("aaer", {}), ("elle", {"base": "n-fgsm"})):
        assert delta.abs().max() > 0.25
    else:
        assert delta.abs().max() <= 0.25
    assert all(p.grad is None for p in model.parameters())
    if name != "standard":
        assert delta.any()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.conv1(x).relu())


class Residual(nn.Module):
    """The smallest model that APART can perturb from inside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block = Block()
        self.linear = nn.Linear(36, 3)

    def forward(self, x):
        return self.linear(self.block(x).flatten(1))


@pytest.mark.parametrize(
    ("name", "settings", "moves"),
    [
        # How often BatchNorm's running statistics move in one step: in the authors' code, and without the perturbation.
        ("standard", {}, {"both": 1, "update": 1, "eval": 1}),
        ("fgsm-rs", {}, {"both": 2, "update": 1, "eval": 1}),
        ("n-fgsm", {}, {"both": 2, "update": 1, "eval": 1}),
        ("s-fgsm", {}, {"both": 2, "update": 1, "eval": 1}),
        ("zero-grad", {}, {"both": 2, "update": 1, "eval": 1}),
        ("multi-grad", {}, {"both": 4, "update": 1, "eval": 1}),
        ("lp-fgsm", {}, {"both": 2, "update": 1, "eval": 1}),
        ("sora", {}, {"both": 2, "update": 1, "eval": 1}),
        ("elle", {}, {"both": 3, "update": 1, "eval": 1}),
        ("aaer", {}, {"both": 2, "update": 1, "eval": 1}),
        ("nuat", {}, {"both": 4, "update": 3, "eval": 3}),
        ("atas", {}, {"both": 2, "update": 1, "eval": 1}),
        ("fgsm-pgi", {}, {"both": 2, "update": 1}),
        ("fast-adv-plus", {}, {"both": 2, "update": 1, "eval": 1}),
        ("atta", {"steps": 2}, {"both": 3, "update": 1, "eval": 1}),
        ("free", {}, {"both": 1, "update": 1, "eval": 1}),
        ("grad-align", {}, {"both": 3, "update": 1, "eval": 1}),
        ("grad-align", {"base": "fgsm-rs"}, {"both": 4, "update": 1, "eval": 1}),
        ("trades", {"steps": 3}, {"both": 6, "update": 2, "eval": 2}),
    ],
)
def test_batchnorm_statistics_are_updated_as_often_as_documented(name, settings, moves):
    x, y = images()
    for mode, times in moves.items():
        model = normed_model().train()
        make(name, model, batchnorm=mode, **settings).step(model, make_batch(x.float(), y, seeded()))
        assert model[1].num_batches_tracked == times, mode
        assert all(module.training and getattr(module, "track_running_stats", True) for module in model.modules())


@pytest.mark.parametrize("name", ["atas", "atta", "trades"])
def test_methods_that_perturb_in_eval_mode(name):
    """They ask the model as it is after training so far: the running statistics, not the batch's."""
    x, y = images()
    model, x = normed_model().train(), x.float()
    method = make(name, model)
    method.start_epoch(1, seeded())
    assert method.batchnorm == "eval"
    model(x * 0.3)  # now the two differ
    state = {"state": plain_view(torch.arange(COUNT)).take(method.delta)} if name != "trades" else {}
    expected = method.perturb(deepcopy(model).eval(), x, y, epsilon=EPSILON, rng=seeded(), **state)
    trained = method.perturb(deepcopy(model), x, y, epsilon=EPSILON, rng=seeded(), **state)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    method.step(model, make_batch(x, y, seeded()))
    last = seen[-1] - x  # the weights are updated there
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(last, trained, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("fgsm-rs", {"relative_step": 0}, "relative_step"),
        ("n-fgsm", {"noise": 0}, "noise"),
        ("free", {"replays": 0}, "replays"),
        ("atta", {"reset": 0}, "reset"),
        ("atta", {"initial_noise": -1.0}, "initial_noise"),
        ("s-fgsm", {"checkpoints": 0}, "checkpoints"),
        ("grad-align", {"base": "pgd"}, "base"),
        ("grad-align", {"penalty": -1.0}, "penalty"),
        ("trades", {"steps": 0}, "steps"),
        ("trades", {"beta": -1.0}, "beta"),
        ("fgsm", {"batchnorm": "none"}, "batchnorm"),
        ("free", {"replay": 2}, "replays"),
    ],
)
def test_settings_out_of_range_are_named(name, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        METHODS.make(name, **settings)


# -- through the loop ------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_data(monkeypatch):
    """40 images of three classes, so that an epoch takes no time."""
    x, y = images(40)
    data = Dataset(x.float(), y, x[:8].float(), y[:8], ("a", "b", "c"), (0.5,), (0.5,))
    monkeypatch.setattr("co_probe.training.loop.make_data", lambda config: data)


def tiny_config(method: str, *, budget: int = 3, augmentation=None, **settings) -> Config:
    return Config.from_dict(
        {
            "method": {"name": method, **settings},
            "data": "digits",
            "model": {"name": "preact_resnet", "width": 8, "blocks": [1]},
            "epsilon": EPSILON,
            "epochs": budget,
            "batch_size": 16,  # the last of the three batches is smaller
            "schedule": "triangular",
            "augmentation": {"padding": 1, "flip": True} if augmentation is None else augmentation,
            "probe": {"test": 8, "train": 8},
        }
    )


def finish(config: Config, out, **options) -> list[EpochMetrics]:
    return list(epochs(config, out, device="cpu", **options))


def assert_same_weights(one, other, epoch):
    first, second = (StoredRun(path).weights(epoch) for path in (one, other))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in METHODS if name not in ("atta", "atas", "free", "shrink")),
        ("apart", {"learn_initialisation": False}),
        ("fgsm-pgi", {"prior": "ep", "reset": 2}),
        ("fgsm-pgi", {"prior": "bp"}),
        ("fast-adv-plus", {"every": 2, "drop": 1e-9}),
        ("atas", {"reset": 2, "warmup": 1}),
        ("atta", {"reset": 2}),  # so that what is kept at the interruption is young, and goes on mattering
        ("free", {"replays": 2}),
        ("grad-align", {"base": "fgsm-rs"}),
    ],
)
def test_every_method_trains_and_resumes_bit_for_bit(tiny_data, tmp_path, name, settings):
    config = tiny_config(name, budget=3 * settings.get("replays", 1), **settings)
    through, resumed = tmp_path / "through", tmp_path / "resumed"
    rows = finish(config, through)
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert all(math.isfinite(value) for row in rows for value in row.to_dict().values())

    going = epochs(config, resumed, device="cpu")
    assert [next(going).epoch, next(going).epoch] == [1, 2]
    going.close()  # the file of epoch 2 is finished first
    assert [row.epoch for row in finish(config, resumed, resume=True)] == [3]
    assert_same_weights(through, resumed, 3)
    there, here = StoredRun(through), StoredRun(resumed)
    assert there.method_parameters(3) == here.method_parameters(3)
    kept = there.image_state(3)
    np.testing.assert_array_equal(kept, here.image_state(3))
    stores = name in ("apart-simple", "atas", "atta") or (name == "apart" and not settings)
    assert (kept is not None) == (stores or (name == "fgsm-pgi" and settings.get("prior") != "bp"))
    assert kept is None or kept.shape == (8, *SIZE)
    if name not in ("standard", "free"):  # which have no pair of passes
        assert np.isfinite(there.step_series(3)["pert_alignment"]).all()


def test_replays_share_the_budget(tiny_data, tmp_path):
    """A budget of 5 passes at m = 2: three epochs of six steps, the schedule over all of them."""
    rows = finish(tiny_config("free", budget=5, replays=2), tmp_path / "free")
    run = StoredRun(tmp_path / "free")
    assert run.epochs == [1, 2, 3] and run.planned == 3 and run.config.epochs == 5
    expected = [0.1 * triangular()(step / 18) for step in (5, 11, 17)]
    assert [row.learning_rate for row in rows] == pytest.approx(expected)


def test_replays_step_the_optimizer_on_the_same_images(tiny_data, tmp_path, monkeypatch):
    from co_probe.methods.free import Free

    calls = []
    step = Free.step

    def spy(self, model, batch):
        weight = next(model.parameters()).detach().clone()
        calls.append((batch.x.clone(), weight, batch.lr_scale))
        return step(self, model, batch)

    monkeypatch.setattr(Free, "step", spy)
    finish(tiny_config("free", budget=3, replays=3), tmp_path / "free")
    assert len(calls) == 9
    for start in range(0, 9, 3):
        (x, *_), *others = calls[start : start + 3]
        assert all(torch.equal(x, other) for other, *_ in others)
    assert len({rate for *_, rate in calls}) > 4
    for (_, before, rate), (_, after, _) in pairwise(calls):
        assert torch.equal(before, after) == (rate == 0)  # the schedule starts at 0: the first step goes nowhere

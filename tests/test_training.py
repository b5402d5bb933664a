from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import TINY, tiny_config

import co_probe
from co_probe.attacks import FGSM, PGD
from co_probe.config.presets import configure
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.methods.base import Batch, Method, forward_backward
from co_probe.numerics.rng import derive_seed
from co_probe.runs.build import make_data
from co_probe.sweeps.sweep import train_cells
from co_probe.training.loop import epochs
from co_probe.training.schedules import SCHEDULES
from co_probe.training.state import snapshot


def test_digits_has_its_documented_form():
    data = make_data(tiny_config("fgsm", data={"size": 16}))
    assert data.train_x.shape == (1297, 1, 16, 16) and data.test_x.shape == (500, 1, 16, 16)
    assert data.train_x.dtype == torch.float32 and data.train_x.min() == 0 and data.train_x.max() <= 1
    # No test image is a training image, and the split does not depend on any seed.
    together = torch.cat([data.train_x, data.test_x]).flatten(1)
    assert len(torch.unique(together, dim=0)) >= 1790
    assert data.test_y[:10].tolist() == make_data(tiny_config("pgd", seed=9)).test_y[:10].tolist()
    assert np.bincount(data.train_y.numpy()).min() > 100


def test_bilinear_resize_against_scikit_learn_originals():
    from sklearn.datasets import load_digits

    eight = make_data(tiny_config("fgsm", data={"size": 8}))
    originals = torch.from_numpy(load_digits().images / 16).float()
    order = np.random.RandomState(0).permutation(1797)
    assert torch.equal(eight.test_x[:, 0], originals[order[:500]])


@pytest.mark.parametrize(
    ("name", "settings", "points"),
    [
        ("triangular", {}, {0.0: 0, 0.25: 0.5, 0.5: 1, 0.75: 0.5, 1.0: 0}),
        ("triangular", {"peak": 0.2}, {0.0: 0, 0.1: 0.5, 0.2: 1, 0.6: 0.5}),
        ("piecewise", {}, {0.0: 1, 0.49: 1, 0.5: 0.1, 0.75: 0.01}),
        ("constant", {}, {0.0: 1, 1.0: 1}),
    ],
)
def test_schedules(name, settings, points):
    schedule = SCHEDULES.make(name, **settings)
    for progress, share in points.items():
        assert schedule(progress) == pytest.approx(share)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path):
    runs = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        runs[name] = co_probe.train("apart", out=tmp_path / name, device="cpu", **{**TINY, "epochs": 1, "seed": seed})
    a, b, c = (run.weights(1) for run in runs.values())
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert not np.array_equal(a["conv1.weight"], c["conv1.weight"])
    drop = lambda run: {k: v for k, v in run.metrics(1).items() if k != "seconds"}  # noqa: E731
    assert drop(runs["a"]) == drop(runs["b"])


def test_training_does_not_move_the_callers_random_state(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    co_probe.train("fgsm", out=tmp_path / "run", device="cpu", **{**TINY, "epochs": 1})
    assert torch.equal(torch.rand(3), expected)


def test_training_learns(tmp_path):
    settings = {**TINY, "epochs": 6, "batch_size": 32, "model": {"width": 8}, "epsilon": 0.05}
    run = co_probe.train("fgsm", out=tmp_path / "run", device="cpu", **settings)
    first, last = run.metrics(1), run.metrics(6)
    assert last["train_loss"] < first["train_loss"] / 2
    assert last["clean"] > 0.8 and last["fgsm"] > 0.5
    assert last["learning_rate"] < 0.01 < run.metrics(3)["learning_rate"]


def test_metrics_equal_accuracies_under_the_attacks(trained):
    run = co_probe.open_run(trained / "apart")
    model, (x, y) = run.load_model(2), run.test_data()
    from co_probe.numerics.rng import make_rng

    for name, attack in (("fgsm", FGSM(epsilon=run.epsilon)), ("pgd10", PGD(epsilon=run.epsilon))):
        delta = attack(model, x, y, make_rng("cpu", run.config.seed, "probe"))
        right = (model((x + delta).clamp(0, 1)).argmax(1) == y).float().mean().item()
        assert run.metrics(2)[name] == pytest.approx(right)
    assert run.metrics(2)["clean"] == pytest.approx((model(x).argmax(1) == y).float().mean().item())


def test_a_run_as_an_object(trained):
    run = co_probe.open_run(trained / "apart")
    assert run.epochs == [1, 2, 3] and run.epsilon == 0.14 and run.config.method.name == "apart"
    assert not run.load_model(3).training
    x, y = run.train_data()
    assert x.shape == (30, 1, 8, 8) and y.shape == (30,)
    state = run.method_state(3)
    assert state["images"].shape == x.shape and set(state["alpha"]) >= {"omega", "input"}
    assert co_probe.open_run(trained / "fgsm").method_state(3)["images"] is None
    with pytest.raises(UserError, match="no epoch 7; finished epochs: 1 to 3"):
        run.load_model(7)


def test_a_user_method_is_one_class(tmp_path, monkeypatch):
    class Reversed(Method):
        """Steps down the loss: harmless images."""

        def perturb(self, model, x, y, *, epsilon, rng=None, state=None):
            return -FGSM(epsilon=epsilon)(model, x, y)

        def step(self, model, batch: Batch):
            delta = self.perturb(self.perturbing(model), batch.x, batch.y, epsilon=batch.epsilon)
            return forward_backward(model, (batch.x + delta).clamp(0, 1), batch)

    import co_probe.methods.fgsm as home

    monkeypatch.setattr(home, "Reversed", Reversed, raising=False)
    monkeypatch.setitem(METHODS.entries, "reversed", "co_probe.methods.fgsm:Reversed")
    run = co_probe.train("reversed", out=tmp_path / "run", device="cpu", **{**TINY, "epochs": 1})
    assert run.metrics(1)["train_attack"] >= run.metrics(1)["fgsm"]


def test_a_failed_cell_does_not_stop_the_others(tmp_path):
    settings = {"epochs": 1}
    cells = {
        tmp_path / "bad": tiny_config("fgsm", **settings, optimizer={"learning_rate": 1e6, "weight_decay": 1e6}),
        tmp_path / "good": tiny_config("fgsm", **settings),
    }
    seen = []
    ended = dict(train_cells(cells, jobs=1, device="cpu", progress=lambda done, planned: seen.append((done, planned))))
    assert ended[tmp_path / "good"] is None and "no longer a finite number" in str(ended[tmp_path / "bad"])
    assert co_probe.open_run(tmp_path / "good").epochs == [1]
    assert seen[-1][1] == 2


def test_a_snapshot_is_of_its_moment_whenever_and_wherever_it_is_asked_for():
    weights = torch.arange(24.0).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    kept = snapshot({"weights": weights, "steps": 7})
    expected = weights.numpy().copy()
    weights += 1
    with ThreadPoolExecutor(1) as thread:
        array = thread.submit(kept["weights"].__getitem__, ...).result()
    assert kept["steps"] == 7 and array.flags.c_contiguous and kept["weights"].dtype == array.dtype
    np.testing.assert_array_equal(array, expected)


def test_seeds_of_purposes_differ():
    seeds = {derive_seed(0, p, n) for p in ("epoch", "probe") for n in range(50)} | {derive_seed(1, "epoch", 0)}
    assert len(seeds) == 101 and all(0 <= seed < 2**63 for seed in seeds)


def test_epochs_yields_the_stored_metrics(tmp_path):
    told = list(epochs(tiny_config("fgsm", epochs=2), tmp_path / "run", device="cpu"))
    run = co_probe.open_run(tmp_path / "run")
    for metrics in told:
        assert run.metrics(metrics.epoch) == metrics.to_dict()
    assert [metrics.epoch for metrics in told] == run.epochs == [1, 2]


def test_each_step_of_an_epoch_is_recorded(trained):
    run = co_probe.open_run(trained / "fgsm")
    loss = run.step_series(2)["loss"]
    assert loss.dtype == np.float32 and len(loss) == run.info.steps_per_epoch == 6
    weights = np.array([256] * 5 + [17]) / 1297  # images of each batch
    assert loss @ weights == pytest.approx(run.metrics(2)["train_loss"])


def test_a_method_with_a_title_is_called_by_it(tmp_path):
    titled = configure("digits", "fgsm", TINY, {"epochs": 1, "method": {"title": "FGSM, mine"}})
    list(epochs(titled, tmp_path / "run", device="cpu"))
    run = co_probe.open_run(tmp_path / "run")
    assert set(run.frame("metrics")["method"]) == {"FGSM, mine"} and run.config.method.name == "fgsm"
    with pytest.raises(UserError, match=r"method\.title must be text"):
        configure("digits", "fgsm", TINY, {"method": {"title": 3}})

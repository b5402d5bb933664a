"""The early stop of Wong et al.: what it measures, when it ends a run, and what it leaves behind."""

import numpy as np
import pytest
import torch
from conftest import tiny_config
from formulas import images, normed_model

import co_probe
from co_probe.attacks import PGD
from co_probe.errors import Stopped, UserError
from co_probe.inference.forward import Forward
from co_probe.numerics.rng import make_rng
from co_probe.training import early_stop
from co_probe.training.early_stop import EarlyStop
from co_probe.training.loop import epochs


def test_it_measures_accuracy_under_pgd5_on_the_first_batch_of_the_epoch():
    model, (x, y) = normed_model().train(), images()
    x = x.float()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    config = tiny_config("fgsm", epsilon=0.1)
    rule = EarlyStop(config, (0.0, 1.0))
    rule.watch(x[:20], y[:20])
    rule.watch(x[20:], y[20:])
    rule.look(Forward(model), 7)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    attack = PGD(epsilon=0.1, steps=5, step_size=0.1 / 4)  # in train mode, as the authors' code does
    delta = attack.generate(model, x[:20], y[:20], make_rng("cpu", config.seed, "early stop", 7))
    assert rule.accuracy == (model(x[:20] + delta).argmax(1) == y[:20]).double().mean()


@pytest.mark.parametrize(("accuracies", "stops"), [([0.1, 0.5, 0.29, 0.9], 3), ([0.9, 0.75, 0.6, 0.45], None)])
def test_it_stops_at_a_fall_of_more_than_twenty_points_within_an_epoch(accuracies, stops, monkeypatch):
    given = iter(accuracies)
    monkeypatch.setattr(early_stop, "is_correct", lambda *_: torch.full((4,), next(given), dtype=torch.float64))
    model, (x, y) = normed_model(), images(4)
    rule, ended = EarlyStop(tiny_config("fgsm"), (0.0, 1.0)), None
    for epoch in range(1, 5):
        rule.watch(x.float(), y)
        try:
            rule.look(Forward(model), epoch)
        except Stopped as error:
            assert "from 50.0% to 29.0%; epochs kept: 2" in str(error)
            ended = epoch
            break
    assert ended == stops


@pytest.fixture
def falling(monkeypatch):
    """Accuracy as it is, but 0 in epoch 3."""
    look = EarlyStop.look

    def at(self, forward, epoch, *rest):
        if epoch == 3:
            monkeypatch.setattr(early_stop, "is_correct", lambda model, x, y: torch.zeros(len(y)))
            self.accuracy = max(self.accuracy, 0.5)
        look(self, forward, epoch, *rest)

    monkeypatch.setattr(EarlyStop, "look", at)


def test_a_run_that_is_stopped_ends_with_the_epoch_before(falling, tmp_path):
    list(epochs(tiny_config("fgsm"), tmp_path / "plain", device="cpu"))
    with pytest.raises(Stopped, match="stopped in epoch 3"):
        list(epochs(tiny_config("fgsm", early_stop="wong"), tmp_path / "stopped", device="cpu"))
    plain, stopped = (co_probe.open_run(tmp_path / name) for name in ("plain", "stopped"))
    assert plain.epochs == [1, 2, 3] and stopped.epochs == [1, 2]
    for name, value in plain.weights(2).items():  # the rule has no part in the training
        np.testing.assert_array_equal(value, stopped.weights(2)[name])


def test_going_on_compares_with_the_accuracy_before(tmp_path):
    config = tiny_config("fgsm", early_stop="wong")
    training = epochs(config, tmp_path / "run", device="cpu")
    next(training), next(training)
    training.close()
    before = {}
    load = EarlyStop.load

    def spy(self, state, source):
        load(self, state, source)
        before["accuracy"] = self.accuracy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EarlyStop, "load", spy)
        list(epochs(config, tmp_path / "run", device="cpu", resume=True))
    assert 0 < before["accuracy"] <= 1


def test_another_rule_is_refused():
    with pytest.raises(UserError, match="unknown early_stop 'wang'"):
        tiny_config("fgsm", early_stop="wang")

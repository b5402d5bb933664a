"""Loops that are not ours, two lines added: the alarm fires in a collapse, and not without one."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from clients import fast_adversarial_style, mixed_precision_loop
from clients.problem import COLLAPSING, HEALTHY, Setting

from co_probe.errors import UserError
from co_probe.indicators.alarm import Alarm

pytestmark = pytest.mark.slow
PER_EPOCH, LOST = 41, 0.1


def lightning(setting):
    module = pytest.importorskip("clients.lightning_module", reason="Lightning is not installed")
    return module.main(setting, on_alarm="stop" if setting.stop else "log")[0]


def hugging_face(setting):
    module = pytest.importorskip("clients.huggingface_trainer", reason="transformers is not installed")
    return module.main(setting, on_alarm="stop" if setting.stop else "log")[0]


CLIENTS = {
    "fast_adversarial": fast_adversarial_style.main,
    "mixed precision": mixed_precision_loop.main,
    "lightning": lightning,
    "hugging face": hugging_face,
}


def collapsed(client):
    """The monitor of the first run that collapses, and the epoch (from 1) in which it has lost its robustness.

    Whether a run collapses hangs on rounding, which differs between machines, and the learning rate: several are tried.
    """
    for peak in (0.3, 0.4, 0.6):
        monitor = CLIENTS[client](replace(COLLAPSING, peak=peak))
        pgd = np.array([each["pgd10"] for each in monitor.metrics])
        assert len(pgd) == COLLAPSING.epochs, "training went on after the alarm"
        lost = (pgd <= LOST) & (np.maximum.accumulate(pgd) - 0.2 > LOST)
        if pgd[-1] <= LOST and lost.any():
            return monitor, int(lost.argmax()) + 1
    pytest.fail("no run has collapsed")


@pytest.mark.parametrize("client", CLIENTS)
def test_the_alarm_fires_before_robust_accuracy_is_lost(client):
    monitor, lost = collapsed(client)
    assert monitor.alarm
    assert PER_EPOCH * 5 < monitor.alarm.step < PER_EPOCH * lost, (
        "after the warm-up of ε, before the collapse is measured"
    )
    assert f"step {monitor.alarm.step}: alignment fell" in monitor.alarm.reason
    found = re.search(r"PGD-10 (\d+)%", monitor.alarm.reason)
    assert found and int(found[1]) > 20, "images are still robust when it fires"


@pytest.mark.parametrize("client", CLIENTS)
def test_it_does_not_fire_on_a_healthy_run(client):
    torch.manual_seed(0)
    monitor = CLIENTS[client](HEALTHY)
    assert not monitor.alarm and len(monitor.metrics) == HEALTHY.epochs
    assert np.isfinite(monitor.series["pert_alignment"]).all()
    assert monitor.series["pert_alignment"][-40:].mean() > 0.5  # scales of bfloat16 and accumulation do not matter


def test_lightning_stops_at_the_alarm():
    module = pytest.importorskip("clients.lightning_module", reason="Lightning is not installed")

    class Soon(Alarm):
        def update(self, **values):
            if values["step"] == 20:
                self.fired, self.step, self.reason = True, 20, "as planned"
            return values["step"] == 20

    monitor, trainer = module.main(HEALTHY, alarm=Soon())
    assert monitor.alarm and trainer.global_step == monitor.steps == 20 and "as planned" in monitor.alarm.reason


def test_lightning_trains_a_healthy_run_to_its_end_and_records_it(tmp_path):
    module = pytest.importorskip("clients.lightning_module", reason="Lightning is not installed")
    from co_probe.runs import open_run

    short = Setting(HEALTHY.epsilon, 3)
    monitor, trainer = module.main(short, out=tmp_path / "run", on_alarm="log")
    assert not monitor.alarm and trainer.current_epoch == 3
    assert trainer.callback_metrics["co/pgd10"] == pytest.approx(monitor.metrics[-1]["pgd10"])
    run = open_run(tmp_path / "run", model=lambda: module.Classifier(HEALTHY.epsilon, 1))
    assert run.epochs == [1, 2, 3] and "pert_alignment" in run.step_series(2)
    x, y = run.test_data()
    accuracy = (run.load_model(3)(x).argmax(1) == y).float().mean().item()
    assert accuracy == pytest.approx(run.metrics(3)["clean"])


def test_lightning_calls_the_given_function():
    module = pytest.importorskip("clients.lightning_module", reason="Lightning is not installed")
    with pytest.raises(UserError, match="on_alarm"):
        module.CatastrophicOverfitting(epsilon=0.1, on_alarm="ring")
    with pytest.raises(UserError, match="no submodule 'body'"):
        module.main(Setting(0.1, 1), network="body")


def test_the_hugging_face_trainer_stops_at_the_alarm_and_logs_metrics(tmp_path):
    module = pytest.importorskip("clients.huggingface_trainer", reason="transformers is not installed")

    class Soon(Alarm):
        def update(self, **values):
            if values["step"] == 60:
                self.fired, self.step, self.reason = True, 60, "as planned"
            return values["step"] == 60

    monitor, trainer = module.main(HEALTHY, alarm=Soon(), out=tmp_path / "run")
    assert monitor.alarm and trainer.state.global_step == monitor.steps == 60
    history = trainer.state.log_history
    assert [each["co/pgd10"] for each in history if "co/pgd10" in each] == [each["pgd10"] for each in monitor.metrics]
    assert next(each["co/alarm"] for each in history if "co/alarm" in each).startswith("as planned")
    assert (tmp_path / "run" / "epoch-0001.h5").exists()


def test_the_hugging_face_callback_calls_the_given_function():
    module = pytest.importorskip("clients.huggingface_trainer", reason="transformers is not installed")
    calls = []

    class Soon(Alarm):
        def update(self, **values):
            self.fired, self.step, self.reason = True, values["step"], "as planned"
            return True

    module.main(Setting(0.05, 1), alarm=Soon(), on_alarm=lambda state, control, monitor: calls.append(monitor.steps))
    assert calls == [20]
    with pytest.raises(UserError, match="no submodule 'body'"):
        module.main(Setting(0.1, 1), network="body")

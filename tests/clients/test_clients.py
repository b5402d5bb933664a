"""Loops that are not ours, two lines added: the alarm fires in a collapse, and not without one."""

import numpy as np
import pytest
import torch
from clients import fast_adversarial_style, mixed_precision_loop
from clients.problem import COLLAPSING, HEALTHY, Setting

from co_probe.errors import UserError
from co_probe.indicators.alarm import Alarm

pytestmark = pytest.mark.slow
SCRIPTS = {"fast_adversarial": fast_adversarial_style.main, "mixed precision": mixed_precision_loop.main}


def test_the_alarm_fires_in_a_collapse():
    torch.manual_seed(0)
    monitor = fast_adversarial_style.main(COLLAPSING)
    assert monitor.alarm and 240 < monitor.alarm.step == monitor.steps <= 440
    assert f"step {monitor.alarm.step}: alignment fell" in monitor.alarm.reason and "PGD-10" in monitor.alarm.reason


@pytest.mark.parametrize("client", SCRIPTS)
def test_it_does_not_fire_on_a_healthy_run(client):
    torch.manual_seed(0)
    monitor = SCRIPTS[client](Setting(HEALTHY.epsilon, 5))
    assert not monitor.alarm and len(monitor.metrics) == 5
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


def test_lightning_calls_what_it_is_given():
    module = pytest.importorskip("clients.lightning_module", reason="Lightning is not installed")
    with pytest.raises(UserError, match="on_alarm"):
        module.CatastrophicOverfitting(epsilon=0.1, on_alarm="ring")
    with pytest.raises(UserError, match="no submodule 'body'"):
        module.main(Setting(0.1, 1), network="body")

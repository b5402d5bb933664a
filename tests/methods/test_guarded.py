"""A guarded run: the switch, what it leaves behind, and going on after it."""

import shutil
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_config
from formulas import SIZE, images, make_batch, normed_model, seeded

import co_probe
from co_probe.attacks import PGD
from co_probe.config.presets import configure
from co_probe.diagnosis import verdict_of
from co_probe.errors import Stopped, UserError
from co_probe.indicators.alarm import Alarm
from co_probe.methods import METHODS, guarded
from co_probe.methods.base import TrainingContext
from co_probe.methods.n_fgsm import NFGSM
from co_probe.store import StoredRun
from co_probe.training.loop import epochs

SWITCH = 40  # of 2 × 21 steps


class Fixed(Alarm):
    """An alarm at step 40, whatever is seen."""

    def update(self, **values):
        assert {"alignment", "train_loss", "loss_gain"} <= values.keys()
        assert np.isfinite(list(values.values())).all()
        super().update(**values)
        return values["step"] == SWITCH


@pytest.fixture
def false_alarm(monkeypatch) -> None:
    monkeypatch.setattr(guarded, "Alarm", Fixed)


def config(guard: str = "", **more):
    return tiny_config("fgsm", batch_size=64, epochs=3, guard=guard, **more)


@pytest.fixture(scope="module")
def switched(tmp_path_factory) -> Path:
    """A folder of a plain run and two guarded ones, by their guard, and of what they printed: do not write to it."""
    folder = tmp_path_factory.mktemp("switched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guarded, "Alarm", Fixed)
        for guard in ("", "pgd2", "n-fgsm"):
            with (folder / f"{guard}.txt").open("w") as out, redirect_stderr(out):
                list(epochs(config(guard), folder / (guard or "plain"), device="cpu"))
    return folder


@pytest.mark.parametrize("guard", ["pgd2", "n-fgsm"])
def test_the_switch_is_recorded_and_trains_on_with_the_remedy(guard, switched):
    plain, run = (co_probe.open_run(switched / name) for name in ("plain", guard))
    assert f"guard ({guard})" in (switched / f"{guard}.txt").read_text()
    assert [run.method_parameters(epoch)["guard"]["step"] for epoch in run.epochs] == [0, SWITCH, SWITCH]
    for epoch, same in ((1, True), (2, False)):  # the switch is in epoch 2
        pairs = zip(plain.weights(epoch).values(), run.weights(epoch).values(), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs) is same
    after = run.generator(3).current
    if guard == "pgd2":
        assert after.attack_at(0.1) == PGD(epsilon=0.1, steps=2, step_size=0.05)
    else:
        assert isinstance(after, NFGSM)
    assert run.info.method == f"fgsm, guard {guard}"
    told = f"the guard switched to {'PGD-2' if guard == 'pgd2' else 'N-FGSM'} at step {SWITCH} (epoch 2)"
    assert run.verdict.headline.endswith(told) and run.verdict.summary().endswith(f"T{told[1:]}.")
    assert [run.metrics(epoch)["guard_step"] for epoch in run.epochs] == [0, SWITCH, SWITCH]
    assert plain.verdict.switch is None and "guard" not in plain.verdict.headline
    # own accuracy is that under the remedy, whose pairs of gradients are recorded like those of any method
    assert len(run.step_series(3)["pert_alignment"]) == 21 and "train_attack" in run.metrics(3)


def test_the_switch_is_reported_and_drawn(switched, tmp_path, call):
    run = shutil.copytree(switched / "pgd2", tmp_path / "run")
    _, out, _ = call("show", run)
    assert "the guard switched to PGD-2 at step 40 (epoch 2)" in " ".join(out.split())
    assert "at step 40 (epoch 2)" in str(co_probe.diagnose(run, quick=True))
    figure = co_probe.draw("gap", run, device="cpu")
    lines = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [SWITCH / 21] * 2]
    assert figure.axes[0].lines[0].get_label() == "FGSM, guard pgd2"
    assert len(lines) == 1 and "guard" in [text.get_text() for text in figure.axes[0].texts]


def test_going_on_after_the_switch_gives_the_same_bits(switched, false_alarm, tmp_path):
    training = epochs(config("pgd2"), tmp_path / "parts", device="cpu")
    next(training), next(training)
    training.close()
    list(epochs(config("pgd2"), tmp_path / "parts", device="cpu", resume=True))
    whole, parts = (StoredRun(path).weights(3) for path in (switched / "pgd2", tmp_path / "parts"))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_stop_stores_earlier_epochs_and_is_reported(false_alarm, tmp_path, call):
    with pytest.raises(Stopped, match="stopped by the guard"):
        list(epochs(config("stop"), tmp_path / "run", device="cpu"))
    run = StoredRun(tmp_path / "run")
    assert run.epochs == [1] and run.stopped == SWITCH
    assert verdict_of(run).headline.endswith(f"the guard stopped the run at step {SWITCH} (epoch 2)")
    _, out, _ = call("show", tmp_path / "run")
    assert f"the guard stopped the run at step {SWITCH} (epoch 2)" in " ".join(out.split())
    # A resumed run needs new windows before its alarm can fire, which here it does not: the mark goes.
    list(epochs(config("stop"), tmp_path / "run", device="cpu", resume=True))
    assert StoredRun(tmp_path / "run").stopped == 0


def test_rollback_takes_the_weights_back(false_alarm):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    method = guarded.Guarded(inner=co_probe.methods.fgsm.FGSM(), remedy="rollback")
    method.setup(model, None)
    copies = []
    for step in range(1, SWITCH + 1):
        with torch.no_grad():
            model[1].weight += 1
        x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
        method.step(model, guarded.Batch(x, y, None, 0.1, 1.0, None))
        if step % 20 == 0:
            copies.append(model[1].weight.detach().clone())
        method.update()
    assert method.switched == SWITCH and torch.equal(model[1].weight, copies[0])


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("standard", "free", "apart", "shrink")])
def test_every_method_with_an_attack_and_an_update_can_be_guarded(name, monkeypatch):
    class Early(Alarm):
        def update(self, **values):
            assert np.isfinite(list(values.values())).all()
            return values["step"] == 2

    monkeypatch.setattr(guarded, "Alarm", lambda: Early(window=1))
    model, (x, y) = normed_model().train(), images(12)
    method, other = (guarded.Guarded(inner=METHODS.make(name)) for _ in range(2))
    method.setup(model, TrainingContext(12, SIZE, 0, 10, 0.1, torch.device("cpu"), seeded(7)))
    method.start_epoch(2, seeded())  # NuAT's attack has no part in the first
    for number in range(3):
        method.step(model, make_batch(x.float(), y, seeded(number)))
        method.update()
    other.load_parameters(method.parameters())
    assert method.switched == other.switched == 2 and isinstance(other.current, guarded.PGD2)


def test_methods_without_a_guard_are_refused(tmp_path):
    with pytest.raises(UserError, match="unknown guard 'pgd3'"):
        config("pgd3")
    for method in ("standard", "free"):
        with pytest.raises(UserError, match="an attack and an update"):
            list(epochs(configure("digits", method, {"guard": "pgd2"}), tmp_path / "run", device="cpu"))
    with pytest.raises(UserError, match="no L2 ball"):
        list(epochs(configure("digits", "fgsm", {"guard": "n-fgsm", "norm": "l2"}), tmp_path / "run", device="cpu"))

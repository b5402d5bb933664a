"""The monitor in training loops that know nothing of it."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monitoring.loops import CLASSES, EPSILON, Net, images, train
from torch import nn

import co_probe
from co_probe.errors import UserError
from co_probe.indicators import abnormal_examples, pert_alignment
from co_probe.monitoring.monitor import Metrics, Monitor


def made(plain: bool = False, outputs: str = "logits") -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(3)
    model = Net(plain, outputs)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def watch(model, optimizer, **more) -> Monitor:
    return Monitor(model, optimizer, epsilon=EPSILON, **more)


def test_training_is_the_same_bit_for_bit_with_and_without(tmp_path):
    states = []
    for watched in (False, True):
        model, optimizer = made()
        model.layers[1].eval()  # a mode of its own, which has to stay
        torch.manual_seed(7)
        monitor = watch(model, optimizer, probe=images(40, seed=1), out=tmp_path / "run") if watched else None
        for _ in range(2):
            train(model, optimizer, steps=30)
            if monitor:
                monitor.epoch(train_loss=1.0)
        states.append(
            {
                **{name: value.clone() for name, value in model.state_dict().items()},
                **{f"gradient {name}": p.grad.clone() for name, p in model.named_parameters()},
                **{f"momentum {i}": s["momentum_buffer"] for i, s in optimizer.state_dict()["state"].items()},
                "modes": torch.tensor([module.training for module in model.modules()]),
                "random": torch.get_rng_state(),
            }
        )
        if monitor:
            monitor.close()
            assert monitor.steps == 60 and np.isfinite(monitor.series["pert_alignment"]).all()
    plain, watched = states
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


KINDS = {
    "plain": {},
    "without BatchNorm": {"plain": True},
    "a tuple": {"outputs": "tuple"},
    "bfloat16": {"loop": {"bfloat16": True}},
    "GradScaler": {"loop": {"scaler": torch.amp.GradScaler("cpu")}},
    "accumulation": {"loop": {"accumulate": 3}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_loops_and_models_of_many_kinds(kind):
    settings = dict(KINDS[kind])
    loop = settings.pop("loop", {})
    model, optimizer = made(**settings)
    monitor = watch(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, steps=60, **loop)
    series = monitor.series
    assert len(series["loss"]) == 60 and np.isfinite(series["pert_alignment"]).all()
    assert 0.5 < series["pert_alignment"][30:].mean() <= 1  # nearly linear
    assert 0.5 < series["linearity"][30:].mean() <= 1  # the scale of the loss does not matter
    assert series["loss"][40:].mean() < series["loss"][:10].mean()
    assert series["train_accuracy"][40:].mean() > 1.5 / CLASSES


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="aot_eager")])
def test_wrapped_models(wrap, tmp_path):
    model, optimizer = made()
    wrapped = wrap(model)
    with watch(wrapped, optimizer, probe=images(20, seed=1), out=tmp_path / "run") as monitor:
        train(wrapped, optimizer, steps=20)
        numbers = monitor.epoch()
    assert f"'gap': {numbers['gap']:.4g}" in repr(numbers) and max(map(len, repr(numbers).split())) < 30
    assert np.isfinite(monitor.series["pert_alignment"]).all()
    run = co_probe.open_run(tmp_path / "run", model=Net)
    x, _ = run.test_data()
    torch.testing.assert_close(run.load_model(1)(x), model.eval()(x))


def test_frozen_layers():
    model, optimizer = made()
    model.layers[0].requires_grad_(False)
    monitor = watch(model, optimizer)
    train(model, optimizer, steps=20)
    assert np.isfinite(monitor.series["pert_alignment"]).all()


def test_a_process_group_of_one(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, optimizer = made()
        wrapped = nn.parallel.DistributedDataParallel(model)
        monitor = watch(wrapped, optimizer, probe=images(20, seed=1))
        train(wrapped, optimizer, steps=20)
        assert "pgd10" in monitor.epoch()
    finally:
        torch.distributed.destroy_process_group()
    assert np.isfinite(monitor.series["pert_alignment"]).all()


def test_a_model_inside_a_compiled_one_is_reported():
    model, optimizer = made()
    watch(model, optimizer)
    compiled = torch.compile(model, backend="aot_eager")
    with pytest.warns(UserWarning, match="pass the module that the loop calls"):
        train(compiled, optimizer, steps=45)


def test_accumulated_batches_that_cannot_be_separated_are_reported():
    model, optimizer = made()
    monitor = watch(model, optimizer)
    with pytest.warns(UserWarning, match="over different images"):
        train(model, optimizer, steps=45, accumulate=2, detach=False)
    assert np.isnan(monitor.series["pert_alignment"]).mean() > 0.8


def test_the_written_run_is_an_ordinary_one(tmp_path, call):
    model, optimizer = made()
    probe, told = images(40, seed=1), []
    with watch(model, optimizer, probe=probe, out=tmp_path / "mine", attack="fgsm", log=told.append) as monitor:
        for epoch in range(3):
            train(model, optimizer, steps=25)
            metrics = monitor.epoch(train_loss=2.0 - epoch)
            # it can be read while training goes on
            assert co_probe.open_run(tmp_path / "mine").epochs == list(range(1, epoch + 2))
    run = co_probe.open_run(tmp_path / "mine", model=Net)
    assert (
        run.metrics(3) == pytest.approx(metrics)
        and metrics["train_loss"] == 0
        and metrics["train_attack"] == metrics["fgsm"]
    )
    assert len(run.step_series(2)["pert_alignment"]) == 25
    torch.testing.assert_close(run.load_model(3)(probe[0]), model.eval()(probe[0]))
    assert len(co_probe.gap(run)) > 0
    assert call("show", tmp_path / "mine")[0] == 0
    assert call("diagnose", tmp_path / "mine", "--quick")[0] in (0, 2)
    assert {"pert_alignment", "step"} <= told[0].keys() and told[-1]["pgd10"] == metrics["pgd10"]


def test_normalised_inputs(tmp_path):
    class Behind(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network((x - 0.5) / 0.25)

    model, optimizer = made()
    train(Behind(model), optimizer, steps=40)
    x, y = images(60, seed=1)
    metrics = watch(model, optimizer, probe=(x, y), normalise=(0.5, 0.25)).epoch()
    accuracy = (Behind(model).eval()(x).argmax(1) == y).float().mean().item()
    assert metrics["clean"] == pytest.approx(accuracy)


def test_explicit_steps_give_the_values_of_the_functions():
    model, optimizer = made()
    optimizer.param_groups[0]["lr"] = 1e-3
    monitor, (x, y) = watch(model, optimizer), images(16)
    expected = []
    for _ in range(20):
        start = x.clone().requires_grad_()
        z0 = model(start)
        l0 = F.cross_entropy(z0, y, reduction="none")
        (g0,) = torch.autograd.grad(l0.sum(), start)
        end = (x + EPSILON * g0.sign()).detach().requires_grad_()
        z1 = model(end)
        l1 = F.cross_entropy(z1, y, reduction="none")
        optimizer.zero_grad()
        l1.sum().backward()
        optimizer.step()
        fired = monitor.step(attack_gradient=g0, update_gradient=end.grad, losses=(l0, l1), logits=(z0, z1), labels=y)
        assert fired is False
        expected.append((pert_alignment(g0, end.grad).item(), abnormal_examples((l0, l1)).share.item()))
    found, (alignments, shares) = monitor.series, zip(*expected, strict=True)
    assert found["pert_alignment"].tolist() == pytest.approx(alignments, abs=1e-6)
    assert found["abnormal"].tolist() == pytest.approx(shares)
    assert np.isfinite(found["train_accuracy"]).all() and monitor.steps == 20


def test_the_alarm_is_set_by_the_step_and_rollback_goes_to_before_it():
    model, optimizer = made()
    probe = images(60, seed=1)
    monitor = watch(model, optimizer, probe=probe, snapshots=5)
    rng = torch.Generator().manual_seed(0)
    states = []
    for step in range(1, 401):
        g = torch.randn(16, 1, 6, 6, generator=rng)
        other = torch.randn(16, 1, 6, 6, generator=rng)
        optimizer.zero_grad()
        F.cross_entropy(model(probe[0]), probe[1]).backward()
        optimizer.step()
        states.append(copy.deepcopy(model.state_dict()))
        if step % 50 == 0:
            monitor.epoch()  # windows do not begin anew with an epoch
        if monitor.step(attack_gradient=g, update_gradient=g + (0.5 if step <= 300 else 30) * other):
            break
    assert monitor.steps == monitor.alarm.step == 320 and "alignment fell" in monitor.alarm.reason
    assert "PGD-10" in monitor.alarm.reason and monitor.confirmed is False
    back = monitor.rollback()
    assert back == 280 and not monitor.alarm
    expected = states[back - 1]
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_errors_suggest_a_remedy(tmp_path):
    model, optimizer = made()
    with pytest.raises(UserError, match="8/255"):
        Monitor(model, optimizer, epsilon=8)
    with pytest.raises(UserError, match="probe"):
        Monitor(model, optimizer, epsilon=0.1, out=tmp_path / "run")
    with pytest.raises(UserError, match="snapshots"):
        watch(model, optimizer).rollback()


def test_a_folder_that_holds_a_run_is_refused_at_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.h5").write_bytes(b"")
    model, optimizer = made()
    with pytest.raises(UserError, match="is a run already"):
        Monitor(model, optimizer, epsilon=0.1, probe=images(20), out=tmp_path / "run")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbations_beyond_epsilon_give_a_warning(norm):
    model, optimizer = made()
    Monitor(model, optimizer, epsilon=EPSILON / 3, norm=norm)
    with pytest.warns(UserWarning, match=rf"but the loop moves images by up to .* \({norm}\)"):
        train(model, optimizer, steps=25)


def test_perturbations_within_epsilon_give_no_warning(recwarn):
    model, optimizer = made()
    monitor = watch(model, optimizer)
    train(model, optimizer, steps=45)
    assert not [each for each in recwarn if "moves images" in str(each.message)]
    assert not monitor._observer.holds_inputs, "inputs are held in the first window only"


def test_metrics_of_an_epoch_are_printed_in_a_line():
    metrics = Metrics({"clean": 0.869, "fgsm": 0.4, "pgd10": 0.279, "gap": 0.2345, "train_pert_alignment": 0.65})
    assert str(metrics) == "clean 86.9%, FGSM 40.0%, PGD-10 27.9%, gap 0.23 nats, PertAlign 0.65"
    assert str(Metrics({"train_loss": 2.0})) == "{'train_loss': 2}"


def test_labels_that_count_from_1_are_refused_with_the_reason():
    model, optimizer = made()
    x, y = images(40)
    monitor = watch(model, optimizer, probe=(x, y + 1))
    with pytest.raises(UserError, match="pass y - 1"):
        monitor.epoch()
    with pytest.raises(UserError, match="pass y - 1"):
        train(model, optimizer, steps=1)

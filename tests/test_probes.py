import threading

import numpy as np
import pandas as pd
import pytest
import torch

import co_probe
import co_probe.probes.base as runner
from co_probe.attacks import FGSM, PGD
from co_probe.errors import DamagedFile, UserError
from co_probe.inference.evaluation import outcome
from co_probe.numerics.rng import make_rng
from co_probe.runs.checkpoints import export

COLUMNS = ["run", "method", "seed", "epoch", "probe"]


@pytest.fixture
def reference(runs, tmp_path):
    path = tmp_path / "pgd10_ep3.pt"
    export(co_probe.open_run(runs / "pgd"), 3, path)
    return path


def test_gap_is_the_difference_of_mean_losses(runs):
    frame = co_probe.gap(runs / "fgsm", device="cpu")
    assert list(frame.columns[:5]) == COLUMNS and set(frame["quantity"]) == {"gap", "accuracy"}
    run = co_probe.open_run(runs / "fgsm")
    model, (x, y) = run.load_model(3), run.test_data()
    losses = [
        outcome(model, x, y, attack(model, x, y, make_rng("cpu", 0, "probe"))).loss
        for attack in (PGD(epsilon=run.epsilon), FGSM(epsilon=run.epsilon))
    ]
    row = frame[(frame["epoch"] == 3) & (frame["quantity"] == "gap")].iloc[0]
    assert row["value"] == pytest.approx((losses[0] - losses[1]).mean().item(), rel=1e-5)
    assert row["low"] < row["value"] < row["high"] and row["n"] == len(y)


def test_recorded_metrics_equal_those_of_the_probe(runs, monkeypatch):
    taken = co_probe.gap(runs / "fgsm", device="cpu")
    (runs / "fgsm" / "results.h5").unlink()
    monkeypatch.setattr("co_probe.probes.gap.Gap.recorded", lambda *_: None)
    measured = co_probe.gap(runs / "fgsm", device="cpu")
    pd.testing.assert_frame_equal(taken, measured, rtol=1e-6)


def test_the_gap_of_a_pgd_run_to_its_own_attack_is_zero(runs):
    frame = co_probe.gap(runs / "pgd", generator="method", device="cpu")
    assert (frame.loc[frame["quantity"] == "gap", "value"] == 0).all()


def test_the_train_split_uses_the_learned_initialisation_of_apart(runs, monkeypatch):
    run = co_probe.open_run(runs / "apart")
    with_state = co_probe.gap(run, generator="method", split="train", device="cpu")
    monkeypatch.setattr(co_probe.Run, "image_state", lambda self, epoch: None)
    (runs / "apart" / "results.h5").unlink()
    without = co_probe.gap(run, generator="method", split="train", device="cpu")
    assert not np.allclose(with_state["value"], without["value"])


def test_strength_is_the_references_accuracy_on_transferred_perturbations(runs, reference):
    frame = co_probe.strength([runs / "fgsm", runs / "apart"], reference, device="cpu")
    run, judge = co_probe.open_run(runs / "fgsm"), co_probe.open_run(runs / "pgd").load_model(3)
    model, (x, y) = run.load_model(2), run.test_data()
    delta = FGSM(epsilon=run.epsilon)(model, x, y)
    right = (judge((x + delta).clamp(0, 1)).argmax(1) == y).float().mean().item()
    chosen = frame[(frame["run"] == "fgsm") & (frame["epoch"] == 2)]
    assert chosen["value"].item() == pytest.approx(right)
    yardsticks = frame[(frame["run"] == "fgsm") & (frame["epoch"] == 0)].set_index("quantity")["value"]
    assert yardsticks["clean"] == pytest.approx((judge(x).argmax(1) == y).float().mean().item())
    assert set(yardsticks.index) == {"clean", "noise", "sign-noise"}
    assert set(frame["reference"]) == {"pgd10_ep3.pt"}


def test_stored_results_are_not_measured_again(runs, reference, monkeypatch):
    first = co_probe.strength(runs / "fgsm", reference, device="cpu")
    measured = []
    original = runner.EpochTable._measure_epoch
    monkeypatch.setattr(
        runner.EpochTable,
        "_measure_epoch",
        lambda self, checkpoint, *rest: measured.append(checkpoint.epoch) or original(self, checkpoint, *rest),
    )
    again = co_probe.strength(runs / "fgsm", reference, device="cpu")
    pd.testing.assert_frame_equal(first.reset_index(drop=True), again.reset_index(drop=True))
    assert measured == []
    # Other settings are other rows, beside the first.
    co_probe.strength(runs / "fgsm", reference, generator="method", device="cpu")
    assert measured == [1, 2, 3]
    stored = co_probe.open_run(runs / "fgsm").frame("strength")
    assert set(stored["generator"]) == {"fgsm", "method"} and len(stored) == 2 * len(first)


def test_the_next_epochs_are_read_while_one_is_measured(runs, reference, monkeypatch):
    load, seen = co_probe.Run.weights, []
    third = threading.Event()  # epoch 3 has been read

    def reads(self, epoch):
        assert threading.current_thread() is not threading.main_thread()
        weights = load(self, epoch)
        seen.append(epoch)
        if epoch == 3:
            third.set()
        return weights

    def measures(self, checkpoint, *rest):
        assert third.wait(20), "the reader waited for the measurement"
        return original(self, checkpoint, *rest)

    original = runner.EpochTable._measure_epoch
    ahead = co_probe.strength(runs / "fgsm", reference, device="cpu").reset_index(drop=True)
    (runs / "fgsm" / "results.h5").unlink()
    monkeypatch.setattr(co_probe.Run, "weights", reads)
    monkeypatch.setattr(runner.EpochTable, "_measure_epoch", measures)
    again = co_probe.strength(runs / "fgsm", reference, device="cpu").reset_index(drop=True)
    assert seen == [1, 2, 3]
    pd.testing.assert_frame_equal(ahead, again)


def test_models_yields_one_network_with_the_weights_of_each_epoch(runs):
    run = co_probe.open_run(runs / "fgsm")
    x, networks = run.test_data()[0], []
    for epoch, model in run.models([3, 1]):
        assert not model.training
        assert torch.equal(model(x), run.load_model(epoch)(x))
        networks.append(model)
    assert len(networks) == 2 and networks[0] is networks[1]
    assert [epoch for epoch, _ in run.models()] == [1, 2, 3]
    with pytest.raises(UserError, match="no epoch 7"):
        list(run.models([1, 7]))


def test_stored_metrics_are_used_without_reading_weights(runs, monkeypatch):
    monkeypatch.setattr(co_probe.Run, "weights", lambda *_: pytest.fail("a network was read"))
    assert len(co_probe.gap(runs / "fgsm", device="cpu")) == 6


def test_a_damaged_epoch_is_named_when_it_is_read(runs):
    damaged = runs / "fgsm" / "epoch-0003.h5"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"epoch-0003\.h5"):
        co_probe.gap(runs / "fgsm", against="pgd2", device="cpu")
    assert set(co_probe.open_run(runs / "fgsm").frame("gap")["epoch"]) == {1, 2}


def test_an_interrupted_probe_stores_its_finished_epochs(runs, monkeypatch):
    original = runner.EpochTable._measure_epoch

    def fails_at_three(self, checkpoint, *rest):
        if checkpoint.epoch == 3:
            raise KeyboardInterrupt
        return original(self, checkpoint, *rest)

    monkeypatch.setattr(runner.EpochTable, "_measure_epoch", fails_at_three)
    with pytest.raises(KeyboardInterrupt):
        co_probe.gap(runs / "fgsm", against="pgd2", device="cpu")
    assert set(co_probe.open_run(runs / "fgsm").frame("gap")["epoch"]) == {1, 2}


def test_probes_work_on_a_packed_run_and_write_beside_it(runs, tmp_path):
    from co_probe.store import StoredRun
    from co_probe.store.pack import pack

    packed = tmp_path / "sent.h5"
    pack(StoredRun(runs / "fgsm"), packed)
    before = packed.read_bytes()
    frame = co_probe.gap(packed, device="cpu")
    assert packed.read_bytes() == before and (tmp_path / "sent.results.h5").exists()
    live = co_probe.gap(runs / "fgsm", device="cpu")
    assert np.array_equal(frame["value"], live["value"])
    assert co_probe.open_run(packed).frame("gap")["run"].unique().tolist() == ["sent"]


def test_a_reference_from_another_device_opens_here(runs, reference):
    from co_probe.runs.checkpoints import load_reference

    content = torch.load(reference, weights_only=True)
    assert all(value.device.type == "cpu" for value in content["weights"].values())
    loaded = load_reference(reference)
    assert not loaded.model.training and loaded.shape == (1, 8, 8)


def test_a_reference_must_fit(runs, tmp_path):
    from conftest import tiny_config

    from co_probe.training.loop import epochs

    for _ in epochs(tiny_config("fgsm", epochs=1, data={"size": 9}), tmp_path / "larger", device="cpu"):
        pass
    export(co_probe.open_run(tmp_path / "larger"), 1, tmp_path / "larger.pt")
    with pytest.raises(UserError, match=r"takes images of shape \(1, 9, 9\)"):
        co_probe.strength(runs / "fgsm", tmp_path / "larger.pt", device="cpu")


def test_tidy_tables_of_a_run(runs):
    run = co_probe.open_run(runs / "apart")
    metrics, steps = run.frame("metrics"), run.frame("steps")
    assert list(metrics.columns) == [*COLUMNS, "quantity", "value", "low", "high", "n"]
    pgd = metrics[metrics["quantity"] == "pgd10"]
    assert ((pgd["low"] <= pgd["value"]) & (pgd["value"] <= pgd["high"])).all() and len(pgd) == 3
    assert set(steps["layer"]) == {"omega", "input", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"}
    assert run.frame("gap").empty

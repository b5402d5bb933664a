"""Images that are held out of training: drawn, never trained on, and what onset and best epoch are judged on."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, tiny_config

import co_probe
from co_probe.config import Config
from co_probe.config.presets import configure
from co_probe.config.settings import ProbeSizes
from co_probe.data.dataset import Dataset
from co_probe.diagnosis.stored import curves_of
from co_probe.errors import UserError
from co_probe.runs.build import make_data
from co_probe.store import StoredRun
from co_probe.training.loop import epochs
from co_probe.training.resolution import ResolutionStages
from co_probe.training.state import draw_probe


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """A tiny finished run that holds 100 training images out: read it, do not write to it."""
    folder = tmp_path_factory.mktemp("validation") / "fgsm"
    settings = {"probe": {"test": 40, "train": 30, "validation": 100}, "epochs": 2}
    for _ in epochs(tiny_config("fgsm", **settings), folder, device="cpu"):
        pass
    return folder


@pytest.mark.parametrize(
    ("value", "count", "number"),
    [
        (0, 50_000, 0),
        (300, 50_000, 300),
        (0.1, 1297, 130),
        ("auto", 50_000, 1000),
        ("auto", 5000, 500),
        ("auto", 4999, 0),
    ],
)
def test_number_of_validation_images(value, count, number):
    assert ProbeSizes(validation=value).held_out(count) == number


@pytest.mark.parametrize("value", [-1, 1.5, float("inf"), "some"])
def test_other_values_are_refused(value):
    with pytest.raises(UserError, match=r"probe\.validation must be a number of images, a share below 1, 0 or auto"):
        ProbeSizes(validation=value)


def test_some_images_are_left_to_train_on(tmp_path):
    config = tiny_config("fgsm", probe={"validation": 2000})
    with pytest.raises(UserError, match=r"holds out 2,000 of 1,297 training images: choose fewer"):
        next(epochs(config, tmp_path / "run", device="cpu"))


def test_new_runs_hold_images_out_where_there_are_enough_and_runs_of_earlier_versions_do_not():
    new = configure("digits", "fgsm", TINY)
    assert new.probe.validation == "auto"
    stored = new.to_dict()
    del stored["probe"]["validation"]
    assert Config.from_dict(stored).probe.validation == 0
    assert "validation" not in draw_probe(new, make_data(new)), "digits has too few training images"
    assert configure("digits", "fgsm", {"probe": {"validation": 0.25}}).probe.validation == 0.25


def large_data() -> Dataset:
    x, y = torch.rand(6000, 1, 8, 8), torch.arange(6000) % 10
    return Dataset(x, y, x[:50], y[:50], tuple("0123456789"), (0.0,), (1.0,))


def test_validation_images_are_neither_trained_on_nor_probe_images():
    config, data = configure("digits", "fgsm", TINY), large_data()
    index = draw_probe(config, data)
    assert len(index["validation"]) == 600 and not set(index["validation"]) & set(index["train"])
    other_seed = draw_probe(configure("digits", "fgsm", TINY, {"seed": 1}), data)
    assert np.array_equal(index["validation"], other_seed["validation"])
    assert not np.array_equal(index["train"], other_seed["train"])
    stages = ResolutionStages(config, data, 3, 1, torch.device("cpu"), index["validation"])
    assert stages.count == 5400 and stages.stage(1).steps == -(-5400 // 256)
    seen = torch.cat([view.index for _, _, view in stages.batches(1, torch.Generator().manual_seed(0))])
    assert len(seen) == 5400 and set(seen.tolist()) == set(range(6000)) - set(index["validation"].tolist())


def test_without_validation_images_are_drawn_as_before():
    config, data = tiny_config("fgsm"), make_data(tiny_config("fgsm"))
    plain = ResolutionStages(config, data, 3, 1, torch.device("cpu"))
    order = torch.cat([view.index for _, _, view in plain.batches(1, torch.Generator().manual_seed(7))])
    assert torch.equal(order, torch.randperm(1297, generator=torch.Generator().manual_seed(7)))


def test_a_run_stores_validation_images_and_their_metrics(held_out):
    run = co_probe.open_run(held_out)
    assert run.chosen_on == "validation"
    x, y = run.validation_data()
    index = torch.from_numpy(run.probe_set["validation"])
    assert len(y) == 100 and torch.equal(y, run.data.train_y[index]) and torch.equal(x, run.data.train_x[index])
    metrics = run.metrics(2)
    assert {f"validation_{name}" for name in ("clean", "fgsm", "pgd10", "train_attack", "gap")} <= metrics.keys()
    clean = (run.load_model(2)(x).argmax(1) == y).float().mean().item()
    assert metrics["validation_clean"] == pytest.approx(clean)
    rows = run.frame("metrics")
    assert set(rows[rows["quantity"] == "validation_pgd10"]["n"]) == {100}
    assert set(rows[rows["quantity"] == "pgd10"]["n"]) == {40}


def rewritten(run: StoredRun, **metrics: list[float]) -> StoredRun:
    """The run with other metrics, as if they were on the disk."""
    for position, epoch in enumerate(run.epochs):
        run._metrics[epoch] = run.metrics(epoch) | {name: values[position] for name, values in metrics.items()}
    return run


def test_best_epoch_and_verdict_are_judged_on_validation_images(held_out):
    run = rewritten(StoredRun(held_out), pgd10=[0.2, 0.5], validation_pgd10=[0.6, 0.3])
    assert run.best_epoch == 1
    assert curves_of(run)["pgd"].tolist() == [0.6, 0.3]
    assert curves_of(run)["fgsm"].tolist() == list(run.metric("validation_train_attack").values())
    assert "100 validation images" in co_probe.diagnose(run, quick=True).basis


def test_probes_measure_validation_images_when_asked(held_out, tmp_path):
    folder = shutil.copytree(held_out, tmp_path / "fgsm")
    frame = co_probe.probe("gap", folder, split="validation", epochs="last", device="cpu")
    assert set(frame["n"]) == {100} and set(frame["split"]) == {"validation"}
    value = frame[frame["quantity"] == "accuracy"]["value"].item()
    assert value == pytest.approx(StoredRun(folder).metrics(2)["validation_pgd10"])


def test_a_resumed_run_holds_the_same_images_out(tmp_path):
    config = tiny_config("fgsm", probe={"validation": 50, "test": 40, "train": 30}, epochs=2)
    whole = tmp_path / "whole"
    for _ in epochs(config, whole, device="cpu"):
        pass
    parts = tmp_path / "parts"
    training = epochs(config, parts, device="cpu")
    next(training)
    training.close()
    for _ in epochs(config, parts, device="cpu", resume=True):
        pass
    one, other = StoredRun(whole), StoredRun(parts)
    assert np.array_equal(one.probe_set["validation"], other.probe_set["validation"])
    assert {k: v for k, v in one.metrics(2).items() if k != "seconds"} == {
        k: v for k, v in other.metrics(2).items() if k != "seconds"
    }


def test_tables_state_the_images_that_selected_the_best_epoch(held_out, trained, call, tmp_path):
    folder = shutil.copytree(held_out, tmp_path / "fgsm")
    clean = ("eval", folder, "--attacks", "clean", "--images", "20", "--device", "cpu")
    assert json.loads(call(*clean, "--json")[1])[0]["n"] == 20
    assert "Accuracy (%) on 20 test images; best epoch chosen on validation images" in call(*clean)[1]
    assert "chosen" not in call(*clean, "--epoch", "last")[1]
    assert "best epoch chosen on test images" in call("show", "--runs", trained)[1]
    shown = call("show", held_out)[1]
    assert "PGD-10, validation" in shown and "Verdict (on 100 validation images)" in shown

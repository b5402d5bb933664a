"""Averaged weights: PyTorch's numbers, resumed bit for bit, and read by every diagnostic as a run of their own."""

import shutil
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import tiny_config
from made_files import put
from torch import nn
from torch.optim.swa_utils import AveragedModel

import co_probe
from co_probe.errors import DamagedFile, UserError
from co_probe.runs.checkpoints import load_reference
from co_probe.store import StoredRun
from co_probe.training.averaging import WeightAverage
from co_probe.training.loop import epochs

CONFIG = tiny_config(
    "fgsm", epochs=2, batch_size=100, ema=0.9, data={"size": 8, "limit": 400}, probe={"test": 30, "train": 20}
)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory) -> Path:
    """A run of two epochs with averaged weights, and `begun`, the same run after its first: do not write to them."""
    folder = tmp_path_factory.mktemp("averaged")
    list(epochs(CONFIG, folder / "run", device="cpu"))
    training = epochs(CONFIG, folder / "begun", device="cpu")
    list(islice(training, 1))
    training.close()
    return folder


def test_the_average_is_that_of_pytorch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    ours = WeightAverage(model, 0.2)
    decay = lambda step: min(0.2, (1 + step) / (10 + step))  # noqa: E731
    theirs = AveragedModel(
        model,
        avg_fn=lambda mean, new, count: decay(count - 1) * mean + (1 - decay(count - 1)) * new,
        use_buffers=True,
    )
    theirs.update_parameters(model)  # the first one copies
    for step in range(6):
        with torch.no_grad():
            model(torch.randn(4, 1, 6, 6))  # moves the statistics of BatchNorm
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update()
        theirs.update_parameters(model)
        for (name, mine), other in zip(
            ours.model.state_dict().items(), theirs.module.state_dict().values(), strict=True
        ):
            if mine.is_floating_point():
                torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6, msg=f"{name} at step {step}")
            else:
                assert mine == model.state_dict()[name]
    assert ours.steps == 6 and not ours.model.training


def test_training_does_not_see_the_average(averaged, tmp_path):
    from dataclasses import replace

    list(epochs(replace(CONFIG, ema=0.0), tmp_path / "without", device="cpu"))
    without, run = StoredRun(tmp_path / "without"), StoredRun(averaged / "run")
    for name, value in without.weights(2).items():
        np.testing.assert_array_equal(value, run.weights(2)[name])
    assert without.metrics(2).keys() == run.metrics(2).keys()


def test_resumes_bit_for_bit(averaged, tmp_path):
    run = Path(shutil.copytree(averaged / "begun", tmp_path / "run"))
    list(epochs(CONFIG, run, device="cpu", resume=True))
    for weights in ("trained", "ema"):
        there, here = (StoredRun(path, weights=weights) for path in (averaged / "run", run))
        for name, value in there.weights(2).items():
            np.testing.assert_array_equal(here.weights(2)[name], value)
        same = ("clean", "pgd10", "gap")
        assert [there.metrics(2)[name] for name in same] == [here.metrics(2)[name] for name in same]


@pytest.mark.parametrize(
    ("file", "path", "value", "words"),
    [
        ("resume-0001.h5", "ema", None, "has no number of averaged steps"),
        ("resume-0001.h5", "ema", -1, "has no number of averaged steps"),
        ("epoch-0001.h5", "ema/linear.weight", None, "linear.weight is missing"),
        ("epoch-0001.h5", "ema/linear.weight", np.zeros(3, np.float32), "linear.weight is torch.float32 of shape"),
    ],
)
def test_another_state_is_refused(averaged, tmp_path, file, path, value, words):
    run = Path(shutil.copytree(averaged / "begun", tmp_path / "run"))
    with h5py.File(run / file, "r+") as content:
        if isinstance(value, int):
            content[path].attrs["steps"] = value
        else:
            put(content, path, value)
    with pytest.raises(DamagedFile, match=words):
        list(epochs(CONFIG, run, device="cpu", resume=True))


def test_a_view_with_its_own_memory(averaged, tmp_path):
    """Model, metrics, tables and names are those of the averaged weights; the training's are shared."""
    path = shutil.copytree(averaged / "run", tmp_path / "run")
    trained, ema = co_probe.open_run(path), co_probe.open_run(path, weights="ema")
    assert not np.array_equal(trained.weights(2)["linear.weight"], ema.weights(2)["linear.weight"])
    assert ema.metrics(2).keys() == trained.metrics(2).keys()
    assert ema.metrics(2)["train_loss"] == trained.metrics(2)["train_loss"]
    x, y = ema.test_data()
    right = (ema.load_model(2)(x).argmax(1) == y).float().mean().item()
    assert ema.metrics(2)["clean"] == pytest.approx(right)
    assert (ema.name, ema.info.method) == ("run (EMA)", "fgsm (EMA)")

    frames = {run.name: co_probe.gap(run, against="pgd5") for run in (trained, ema)}
    assert set(frames["run (EMA)"]["run"]) == {"run (EMA)"}
    assert not np.allclose(frames["run"]["value"], frames["run (EMA)"]["value"])
    assert (path / "results.h5").exists() and (path / "results-ema.h5").exists()
    assert co_probe.evaluate(ema, ["clean"], epoch="last", images=50)["epoch"].tolist()[0] == 2

    co_probe.pack(path, tmp_path / "packed.h5")
    packed = co_probe.open_run(tmp_path / "packed.h5", weights="ema")
    assert packed.frame("gap")["value"].tolist() == frames["run (EMA)"]["value"].tolist()
    assert [file.name for file in co_probe.store.find_runs(tmp_path)] == ["packed.h5", "run"]


def test_commands_take_them(averaged, tmp_path, call):
    path = shutil.copytree(averaged / "run", tmp_path / "run")
    code, out, err = call("gap", path, "--weights", "ema")
    assert code == 0 and "run (EMA)" in out, err
    assert "run (EMA)" in call("show", path, "--weights", "ema")[1]
    assert call("diagnose", path, "--quick", "--weights", "ema")[0] == 0
    code, out, err = call("export", path, "--weights", "ema", "-o", tmp_path / "ema.pt")
    assert code == 0, err
    x, _ = co_probe.open_run(path).test_data()
    exported = load_reference(tmp_path / "ema.pt").model
    assert torch.equal(exported(x), co_probe.open_run(path, weights="ema").load_model(2)(x))
    assert call("eval", path, "--weights", "ema", "--attacks", "clean", "--images", "20", "--csv")[1].count("EMA") > 0


def test_a_run_without_series_is_refused(trained, call):
    with pytest.raises(UserError, match=r"fgsm has no averaged weights: it was not trained with ema=0\.9995"):
        co_probe.open_run(trained / "fgsm", weights="ema")
    with pytest.raises(UserError, match="weights must be trained or ema, not 'best'"):
        co_probe.open_run(trained / "fgsm", weights="best")
    code, _, err = call("gap", trained / "fgsm", "--weights", "ema")
    assert code == 2 and err.count("\n") == 1


@pytest.mark.parametrize("setting", ["ema", "label_smoothing"])
def test_shares_out_of_range(setting):
    with pytest.raises(UserError, match=f"{setting} must be at least 0 and less than 1, not 1"):
        tiny_config("fgsm", **{setting: 1.0})

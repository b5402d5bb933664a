"""TensorBoard events of a run: what is in them, and that `diagnose` reads them."""

import sys

import pytest

import co_probe
from co_probe.errors import UserError
from co_probe.reporting.events import EventWriter

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
TINY = ["--set", "data.size=8", "--set", "model.width=8", "--set", "batch_size=256", "--set", "probe.test=40"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run of four epochs and its events."""
    from co_probe.cli.main import main

    folder = tmp_path_factory.mktemp("events")
    command = ["run", "fgsm", *TINY, "--set", "probe.train=30", "--out", folder / "run", "--device", "cpu"]
    epochs = ["--set", "epochs=4", "--tensorboard", folder / "tb"]
    with pytest.raises(SystemExit) as end:
        main([*map(str, [*command, *epochs])])
    assert end.value.code == 0
    return folder


@pytest.fixture(scope="module")
def read(finished):
    found = accumulator.EventAccumulator(str(finished / "tb"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def test_scalars_are_the_metrics_of_the_run(finished, read):
    run = co_probe.open_run(finished / "run")
    for tag, metric in (("accuracy/pgd10", "pgd10"), ("accuracy/train", "train_accuracy"), ("gap/pgd10", "gap")):
        scalars = {event.step: event.value for event in read.Scalars(tag)}
        assert scalars == pytest.approx(run.metric(metric))


def test_series_over_steps(finished, read):
    run = co_probe.open_run(finished / "run")
    losses = [value for epoch in run.epochs for value in run.step_series(epoch)["loss"].tolist()]
    scalars = read.Scalars("step/loss")
    assert [event.step for event in scalars] == list(range(1, len(losses) + 1))
    assert [event.value for event in scalars] == pytest.approx(losses)
    assert run.info.steps_per_epoch is None or len(losses) == 4 * run.info.steps_per_epoch


def test_figures(read):
    assert {"figure/gap", "figure/robust-overfitting"} <= set(read.Tags()["images"])


def test_a_diagnosis_of_the_events_is_that_of_the_run(finished):
    found = co_probe.diagnose(finished / "tb")
    run = co_probe.open_run(finished / "run")
    assert found.curves["pgd"].tolist() == pytest.approx(list(run.metric("pgd10").values()))
    assert found.curves["clean"].tolist() == pytest.approx(list(run.metric("clean").values()))
    assert "train from accuracy/train" in found.basis


def test_without_tensorboard_one_line_before_training(tmp_path, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, err = call("run", "fgsm", *TINY, "--out", tmp_path / "run", "--tensorboard", tmp_path / "tb")
    assert code == 2 and "pip install 'co-probe[tensorboard]'" in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write events"):
        EventWriter(tmp_path / "file" / "tb", tmp_path / "run")


def test_steps_of_a_resumed_run_continue(tmp_path, finished):
    """Events of the last epochs alone begin at the step that these epochs begin at."""
    from types import SimpleNamespace

    run = co_probe.open_run(finished / "run")
    with EventWriter(tmp_path / "tb", finished / "run") as events:
        for epoch in (3, 4):
            events.epoch(SimpleNamespace(epoch=epoch, to_dict=lambda epoch=epoch: run.metrics(epoch)))
    found = accumulator.EventAccumulator(str(tmp_path / "tb"), size_guidance={"scalars": 0})
    found.Reload()
    each = len(run.step_series(1)["loss"])
    assert [event.step for event in found.Scalars("step/loss")] == list(range(2 * each + 1, 4 * each + 1))

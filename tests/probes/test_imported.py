"""Diagnostics of a run that another program trained, with and without metrics."""

import shutil

import matplotlib
import pytest
import their_project
from their_project import EPSILON, MEAN, STD, SmallNet

import co_probe
from co_probe.data.digits import digits
from co_probe.store import StoredRun

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """An imported run of three epochs."""
    folder, data = tmp_path_factory.mktemp("project"), digits()
    their_project.train(folder, data.train_x, data.train_y, 3)
    co_probe.import_run(
        str(folder / "model_epoch_{epoch}.pth"),
        model=SmallNet,
        test=(data.test_x[:60], data.test_y[:60]),
        epsilon=EPSILON,
        normalise=((MEAN,), (STD,)),
        device="cpu",
        out=folder / "mine",
        report=lambda line: None,
    )
    return folder / "mine"


@pytest.fixture
def imported(original, tmp_path):
    return co_probe.Run(shutil.copytree(original, tmp_path / "mine"), model=SmallNet)


@pytest.fixture
def bare(imported, monkeypatch):
    """The same run without any metrics."""
    monkeypatch.setattr(StoredRun, "metrics", lambda self, epoch: {})
    return imported


def test_every_probe_that_needs_test_images_measures_it(imported):
    for name, settings in (
        ("gap", {}),
        ("gap", {"against": "pgd2", "epsilon": 0.05}),
        ("alignment", {}),
        ("curvature", {"images": 8}),
        ("spectrum", {}),
        ("strength", {"reference": imported.load_model(3)}),
    ):
        frame = co_probe.probe(name, imported, device="cpu", **settings)
        assert set(frame["epoch"]) - {0} == {1, 2, 3} and not frame["value"].isna().any()
    assert imported.frame("gap").groupby("epsilon").size().to_dict() == {0.05: 6, EPSILON: 6}


def test_it_is_evaluated_on_its_stored_test_images(imported):
    frame = co_probe.evaluate(imported, ["clean", "pgd2"], epoch="last", device="cpu")
    accuracies = frame[frame["quantity"] == "accuracy"]
    x, y = imported.test_data()
    assert set(accuracies["n"]) == {60}
    clean = (imported.load_model(3)(x).argmax(1) == y).float().mean().item()
    assert accuracies.set_index("attack")["value"]["clean"] == pytest.approx(clean)


def test_it_is_drawn_without_metrics(bare):
    co_probe.strength(bare, bare.load_model(1), device="cpu")
    for kind in ("gap", "deterioration", "robust-overfitting", "perturbations", "spectrum", "induced", "trade-off"):
        figure = co_probe.draw(kind, bare, device="cpu")
        assert figure.axes and "mine" in figure.get_suptitle()
    assert len(co_probe.draw("robust-overfitting", bare, device="cpu").axes) == 2, "there is no training accuracy"
    assert not co_probe.open_run(bare.path).frame("gap")["value"].isna().any()

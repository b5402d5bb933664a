"""Going on takes exactly the state that training left: momenta and the method's own, of the right names and shapes."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import tiny_config
from made_files import put

from co_probe.errors import DamagedFile
from co_probe.store import StoredRun
from co_probe.training.loop import epochs

CONFIG = tiny_config("apart", epochs=2, batch_size=512, probe={"test": 20, "train": 20})


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A run after its first epoch of two: read it, do not write to it."""
    out = tmp_path_factory.mktemp("begun") / "run"
    training = epochs(CONFIG, out, device="cpu")
    next(training)
    training.close()
    assert StoredRun(out).epochs == [1]
    return out


WEIGHT = "momentum/linear.weight"
WRONG = {
    "a momentum that is missing": (WEIGHT, None, "no momentum of linear.weight"),
    "one of another shape": (WEIGHT, np.zeros(3, np.float32), "the momentum of linear.weight is not torch.float32"),
    "one of another type": (WEIGHT, np.zeros((10, 64)), "the momentum of linear.weight is not torch.float32"),
    "one of bytes": (WEIGHT, np.full((10, 64), b"a"), "linear.weight cannot be"),
    "one that is text": (WEIGHT, "text", "the momentum of linear.weight is not torch.float32"),
    "one too many": ("momentum/other.weight", np.zeros(3, np.float32), "has a momentum of other.weight"),
    "none at all": ("momentum", None, "no momentum of"),
    "another kind of group": ("momentum", np.zeros(3), "the group momentum cannot be float64"),
    "no step sizes": ("method/alpha", None, "no alpha of the method, of shape"),
    "step sizes that are text": ("method/alpha", "text", "no alpha of the method, of shape"),
    "step sizes of another number": ("method/alpha", np.zeros(9, np.float32), "no alpha of the method, of shape"),
    "an initialisation of fewer images": ("method/omega", np.zeros((2, 1, 8, 8), np.float32), "no omega of the method"),
    "no state of the method": ("method", None, "no alpha of the method"),
    "another run": ("run_id", "abc", "belongs to another run"),
    "another epoch": ("epoch", 2, "is of epoch 2, not 1"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_another_state_is_refused_and_changes_nothing(kind, begun, tmp_path):
    path, value, words = WRONG[kind]
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    with h5py.File(run / "resume-0001.h5", "r+") as file:
        put(file, path, value)
    with pytest.raises(DamagedFile, match=words) as caught:
        list(epochs(CONFIG, run, device="cpu", resume=True))
    assert "\n" not in str(caught.value)
    assert StoredRun(run).epochs == [1] and (run / "resume-0001.h5").exists() and not (run / "run.lock").exists()


def test_the_state_itself_is_taken(begun, tmp_path):
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    list(epochs(CONFIG, run, device="cpu", resume=True))
    whole = tmp_path / "whole"
    list(epochs(CONFIG, whole, device="cpu"))
    for name, value in StoredRun(whole).weights(2).items():
        np.testing.assert_array_equal(StoredRun(run).weights(2)[name], value)

"""What somebody else's run holds is checked where it is read, before memory is taken for it."""

import json
import shutil
from pathlib import Path

import children
import h5py
import made_files
import numpy as np
import pandas as pd
import pytest
from conftest import tiny_config
from made_files import modestly, put

from co_probe.errors import UserError
from co_probe.store import RunWriter, StoredRun, tree
from co_probe.store.pack import pack

MODEL = {"conv.weight": np.ones((4, 1, 3, 3), np.float32), "bn.num_batches_tracked": np.array(7)}
METRICS = {"clean": 0.9, "fgsm": 0.5, "train_attack": 0.5, "pgd10": 0.4, "gap": 0.1, "gap_low": 0.0, "gap_high": 0.2}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run of three epochs with everything that a run may hold: read it, do not write to it."""
    tmp_path = tmp_path_factory.mktemp("made")
    probe = {"test": children.probe_images(40), "train": children.probe_images(30, seed=1)}
    with RunWriter(tmp_path / "run", children.info_of(tiny_config("apart")), probe, {"python": "3"}) as writer:
        for epoch in (1, 2, 3):
            content = {
                "model": MODEL,
                "metrics": METRICS,
                "method": {"alpha": {"omega": 0.5, "input": 0.25}},
                "images": {"state": np.ones((30, 1, 8, 8), np.float32)},
                "steps": {"loss": np.array([1.0, np.nan], np.float32)},
            }
            writer.commit(epoch, content, {"momentum": MODEL} if epoch < 3 else None)
    row = {"run": "run", "method": "apart", "seed": 0, "epoch": 1, "probe": "gap", "quantity": "gap"}
    row |= {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}
    StoredRun(tmp_path / "run").add_rows("gap", pd.DataFrame([row]))
    outcomes = {name: row[name] for name in ("run", "method", "seed", "epoch")} | {"probe": "eval-images"}
    outcomes |= {"attack": "clean", "version": "", "start": 0, "size": 4, "correct": "1011"}
    StoredRun(tmp_path / "run").add_rows("eval-images", pd.DataFrame([outcomes]))
    return tmp_path / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def read_all(path: Path, file: str = "") -> None:
    """Read everything that a run holds, or one of its files, by each of its readers."""
    run = StoredRun(path)
    if not file.startswith("epoch"):
        run.read_main()
    for epoch in (2,) if file.startswith("epoch") else () if file else run.epochs:
        run.read_epoch(epoch)


def refused(path: Path, file: str = "") -> str:
    """The one line that refuses the run, of which one file is read."""
    with modestly(), pytest.raises(UserError) as caught:
        read_all(path, file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    return str(caught.value)


def test_the_run_itself_is_read(run):
    read_all(run)
    assert np.isnan(StoredRun(run).step_series(2)["loss"][1])


# -- memory and time in proportion to the file -----------------------------------------------------------------------

LARGE = {
    "groups that hold the next twice": made_files.doubled,
    "groups in groups": made_files.nested,
    "one array under many names": made_files.repeated,
    "deflated twice": made_files.twice_deflated,
    "deflated": made_files.bomb((3 * 2**10, 2**20)),
    "deflated, most of it absent": made_files.bomb((2**20, 2**20)),
    "another filter": made_files.bomb((2**20,), compression="lzf", compression_opts=None),
    "shuffled": made_files.bomb((2**20,), shuffle=True),
    "scaled": made_files.bomb((2**20,), "i4", compression=None, compression_opts=None, scaleoffset=0),
}
PLACES = {
    "run.h5": ("info/more", "probe/test/images", "probe/train/index", "probe/more"),
    "epoch-0002.h5": ("model/more", "model/conv.weight", "images/integers", "steps/loss", "method/alpha"),
    "results.h5": ("gap", "gap/value"),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("large", LARGE)
def test_files_that_expand_excessively_are_refused(name, large, run):
    good = (run / name).read_bytes()
    for place in PLACES[name]:
        (run / name).write_bytes(good)
        with h5py.File(run / name, "r+") as file:
            put(file, place, LARGE[large])
        assert (run / name).stat().st_size < 2**24
        refused(run, name)


def test_the_state_of_images_is_at_most_as_large_as_the_images(run):
    with h5py.File(run / "epoch-0002.h5", "r+") as file:
        put(file, "images/integers", np.zeros((30, 1, 8, 9), np.int8))
    assert "images/integers" in refused(run) or "(30, 1, 8, 9)" in refused(run)
    StoredRun(run).weights(2)


def test_a_small_state_of_many_images_is_read(tmp_path):
    """Zeros deflate to a thousandth of their size, and may be larger than the file that they are in."""
    probe = {"test": children.probe_images(9), "train": children.probe_images(3000)}
    with RunWriter(tmp_path / "run", children.info_of(tiny_config("apart")), probe, {}) as writer:
        state = np.zeros((3000, 1, 8, 8), np.float32)
        writer.commit(1, {"model": MODEL, "metrics": {}, "method": {}, "images": {"state": state}}, None)
    assert (tmp_path / "run" / "epoch-0001.h5").stat().st_size < state.size / 10
    assert StoredRun(tmp_path / "run").image_state(1).shape == (3000, 1, 8, 8)
    read_all(tmp_path / "run")


# -- names of epochs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["epoch-0000.h5", "epoch-00003.h5", "epoch-99999999999.h5", "epoch-9999999.h5"])
def test_files_with_other_names_are_not_epochs(name, run, call):
    shutil.copy(run / "epoch-0003.h5", run / name)
    with modestly():
        assert StoredRun(run).epochs == [1, 2, 3]
        code, out, _ = call("show", run)
    assert code == 0 and "missing" not in out


def test_a_late_epoch_differs_from_earlier_ones(run, call):
    content = tree.encode(StoredRun(run).read_epoch(3) | {"epoch": 1_000_000})
    (run / "epoch-1000000.h5").write_bytes(content)
    with modestly():
        code, out, _ = call("show", run)
    assert code == 0 and "epochs whose files are missing: 4 to 999999" in out.replace("\n", " ")


@pytest.mark.parametrize("name", ["0000", "00003", "4 ", "one", "-001", "99999999999"])
def test_a_packed_epoch_of_another_name_is_damage(name, run):
    pack(run, run.parent / "packed.h5")
    with h5py.File(run.parent / "packed.h5", "r+") as file:
        file.copy("epochs/0003", f"epochs/{name}")
    assert "the names of epochs" in refused(run.parent / "packed.h5")


# -- types, shapes and ranges ----------------------------------------------------------------------------------------

INFO = json.dumps({"name": "preact_resnet", "settings": {}, "foreign": False})
WRONG = {
    "run.h5": {
        "schema": [0, -1, 1.5, "3", np.nan, 2**70 * 1.0, np.arange(3)],
        "architecture": ["2", 0.5],
        "environment": ["null", "[]", "{", "1", "[" * 5000, 3, None],
        "unmarked": [-1, "0"],
        "info/planned": [np.inf, 0, -3, "many", 10**9, True],
        "info/epsilon": ["0.1", np.nan, np.inf, 0.0, -1.0, 1, True, np.array([0.1])],
        "info/bounds": [np.array([np.nan, 1.0]), np.array([1.0, 0.0]), np.array([0.0]), np.array([0j, 1j]), "0 1"],
        "info/shape": [np.array([1, 8]), np.array([1, 8, -8]), np.array([1, 2**40, 8]), np.array([1.5, 8, 8]), 3],
        "info/classes": [np.arange(10), np.array([], "S1"), np.array([["a"]], "S1"), 10],
        "info/mean": [np.array([np.nan]), np.array([0.0] * 7), 0.0],
        "info/std": [np.array([0.0]), np.array([-1.0]), None],
        "info/model": ["null", "{}", '{"name": 3}', INFO.replace("{}", "[]"), INFO.replace('"preact_resnet"', "null")],
        "info/settings": ["null", "[]", "1", "{"],
        "info/seed": [-1, 0.5, "0", 2**63 * 1.0],
        "info/run_id": ["", "xyz", 3],
        "info/method": [3, np.array([1.0])],
        "info": [np.arange(3), 3, None],
        "probe": [{}, None, 3],
        "probe/test": [np.arange(3), 3, None],
        "probe/test/images": [
            np.zeros((40, 1, 8, 8), np.int64),
            np.zeros((40, 1, 8, 8), np.uint16),
            np.full((40, 1, 8, 8), 2.5, np.float32),
            np.full((40, 1, 8, 8), np.nan, np.float32),
            np.full((40, 1, 8, 8), "a", "S1"),
            np.zeros((40, 8, 8), np.uint8),
            np.zeros((0, 1, 8, 8), np.uint8),
            None,
        ],
        "probe/test/labels": [
            np.full(40, 10),
            np.full(40, -1),
            np.zeros(39, int),
            np.zeros(40),
            np.full(40, "1", "S1"),
        ],
        "probe/test/index": [np.full(40, -1), np.zeros(40), np.zeros(39, int), np.zeros((40, 1), int)],
    },
    "epoch-0002.h5": {
        "run_id": ["other", 3, None],
        "epoch": [3, 2.5, "2", None],
        "model": [np.arange(3), 3, None],
        "model/conv.weight": ["text", 0.5, {}, np.full((4, 1, 3, 3), "a", "S1"), np.zeros(3, np.complex64)],
        "metrics/clean": ["0.9", 1.5, -0.1, np.nan, np.inf, 0.5j, np.arange(3.0), True, {}],
        "metrics/gap": ["0.1", np.nan, np.inf, np.arange(3.0)],
        "metrics": [np.arange(3), None],
        "method/alpha": [0.5, "text", np.arange(3.0)],
        "method/alpha/omega": ["0.5", np.arange(3.0), {}, 1j],
        "images/scale": [0.0, -1.0, np.inf, np.nan, "1", 1, None],
        "images/integers": [np.zeros((30, 1, 8, 8), np.int16), np.zeros((29, 1, 8, 8), np.int8), "text", 3],
        "images": [np.arange(3), None],
        "steps": [np.arange(3), {"loss": np.zeros(3)}, {"loss": np.zeros((3, 1), np.float32)}, {"loss": 0.5}],
    },
    "results.h5": {
        "gap": [np.arange(3), 3, {}, {"order": "value"}, {"order": 3}],
        "gap/value": [np.full(1, "0.5", "S3"), np.zeros(2), np.zeros((1, 1)), np.zeros(1, complex), 0.5, None],
        "gap/epoch": [np.full(1, "1", "S3"), np.zeros(1), np.zeros(1, bool), np.full(1, -1), np.full(1, 2**40)],
        "gap/run": [np.zeros(1), np.zeros(1, int)],
        "gap/order": [None, 3, "value\nother", "value\nvalue", "run\nvalue"],
        "gap/seed": [np.zeros(1), np.full(1, -2), None],
        "gap/n": [np.full(1, -1), np.full(1, np.nan), np.full(1, np.inf), np.full(1, "9", "S1"), None],
        **{f"gap/{name}": [None] for name in ("method", "probe", "quantity", "low", "high")},
        "eval-images/correct": [np.full(1, "101", "S3"), np.zeros(1), None],
        "eval-images/start": [np.full(1, -1), np.zeros(1), None],
        "eval-images/size": [np.full(1, 3), np.full(1, 2**40), None],
    },
}


@pytest.mark.parametrize(("name", "path"), [(name, path) for name in WRONG for path in WRONG[name]])
def test_a_value_of_another_type_shape_or_range_is_refused(name, path, run):
    good = (run / name).read_bytes()
    for value in WRONG[name][path]:
        (run / name).write_bytes(good)
        with h5py.File(run / name, "r+") as file:
            put(file, path, value)
        assert name in refused(run, name), value


@pytest.mark.parametrize("place", ["run.h5:info", "epoch-0002.h5:model", "results.h5:gap"])
@pytest.mark.parametrize("value", [h5py.Empty("f4"), np.array([b"a"], h5py.string_dtype()), np.zeros(2, "f4,i4")])
def test_foreign_elements_in_files_are_refused(place, value, run):
    name, _, group = place.partition(":")
    with h5py.File(run / name, "r+") as file:
        file[group].create_dataset("more", data=value)
    assert name in refused(run)


def test_attributes_of_other_tools_are_ignored(run):
    with h5py.File(run / "run.h5", "r+") as file:
        file.attrs["note"] = "a string of variable length"
    read_all(run)


def test_a_resumed_run_uses_the_images_of_its_data_set(run):
    (run / "epoch-0003.h5").unlink()
    others = {"test": children.probe_images(40, seed=2), "train": children.probe_images(30, seed=1)}
    with (
        pytest.raises(UserError, match="trained on other data"),
        RunWriter(run, StoredRun(run).info, others, {}, resume=True),
    ):
        pass


def test_a_metric_with_a_former_name_is_renamed(run):
    with h5py.File(run / "epoch-0002.h5", "r+") as file:
        attributes = file["metrics"].attrs
        attributes["own"] = attributes["train_attack"]
        del attributes["train_attack"]
    assert StoredRun(run).metrics(2) == StoredRun(run).metrics(1) == METRICS

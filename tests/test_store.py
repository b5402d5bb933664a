"""A run on disk: what is written comes back, what is damaged says so, and nobody's links are followed."""

import errno
import json
import os
import shutil
import socket
from pathlib import Path

import children
import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import tiny_config

from co_probe.errors import DamagedFile, NotStored, UserError
from co_probe.files.atomic import write_atomic
from co_probe.files.lock import Lock
from co_probe.store import RunWriter, StoredRun, find_runs, rounding, stored_run, table, tree
from co_probe.store.pack import pack

PROBE = {"test": children.probe_images(40), "train": children.probe_images(30, seed=1)}


def checkpoint(epoch: int) -> dict:
    """What a method with state writes after an epoch, at a small size."""
    rng = np.random.default_rng(epoch)
    return {
        "model": {
            "conv1.weight": rng.normal(size=(4, 1, 3, 3)).astype(np.float32),
            "bn.num_batches_tracked": np.array(7 * epoch),
        },
        "metrics": {
            name: float(rng.random()) for name in ("clean", "fgsm", "pgd10", "train_attack", "gap", "train_loss")
        },
        "method": {"alpha": {"omega": float(rng.random()), "input": 0.25}},
        "images": {"state": rng.normal(size=(30, 1, 8, 8)).astype(np.float32)},
    }


def write_run(path: Path, epochs: int = 3, **options) -> Path:
    info = children.info_of(tiny_config("apart", epochs=epochs))
    with RunWriter(path, info, PROBE, {"python": "3"}, **options) as writer:
        for epoch in range(writer.last + 1, epochs + 1):
            writer.commit(epoch, checkpoint(epoch), {"momentum": {"w": np.arange(3.0)}} if epoch < epochs else None)
    return path


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    return StoredRun(write_run(tmp_path / "apart"))


def on_disk(epoch: int, epochs: int = 3) -> dict:
    """What a file holds of `checkpoint(epoch)`: image states are rounded, and the run is named."""
    mark = {"run_id": children.info_of(tiny_config("apart", epochs=epochs)).run_id, "epoch": epoch}
    return checkpoint(epoch) | {"images": rounding.rounded(checkpoint(epoch)["images"]["state"])} | mark


def flat(node, path: str = "") -> dict:
    """A tree as {path: something that is equal only if type, shape and every bit are}."""
    if isinstance(node, dict):
        return {key: value for name in node for key, value in flat(node[name], f"{path}/{name}").items()}
    if isinstance(node, np.ndarray):
        return {path: (node.dtype.str, node.shape, node.tobytes())}
    return {path: (type(node), repr(node))}


def everything(run: StoredRun) -> dict:
    """All that is kept of a run, bit by bit."""
    return flat({"main": run.read_main(), **{str(epoch): run.read_epoch(epoch) for epoch in run.epochs}})


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# -- what is written comes back --------------------------------------------------------------------------------------


def test_trees_are_read_back_bit_for_bit(tmp_path):
    written = {
        "scalar": np.array(3.5, dtype=np.float32),
        "count": np.array(12),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "bools": np.array([[True], [False]]),
        "bytes": np.array([0, 255], dtype=np.uint8),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "nested": {"ε": {"weird name.with dots": np.array([np.nan, np.inf, -0.0])}, "nothing": {}},
        "text": "Größe ε = 8/255 ✓",
        "no text": "",
        "int": -3,
        "big": 2**62,
        "float": 0.1,
        "not a number": float("nan"),
        "flag": True,
        **{f"number {i}": i / 7 for i in range(20)},  # more than HDF5 keeps in an object's header
    }
    write_atomic(tmp_path / "x.h5", tree.encode(written))
    with tree.opened(tmp_path / "x.h5") as file:
        read = tree.read(file)
    assert flat(read) == flat(written)
    assert read["nested"]["nothing"] == {}


def test_tables_are_read_back(tmp_path):
    frame = pd.DataFrame(
        {
            "run": ["fgsm", "größer ε", ""],
            "epoch": [1, 2, 3],
            "value": [0.5, np.nan, np.inf],
            "flag": [True, False, True],
        }
    )
    write_atomic(tmp_path / "t.h5", tree.encode({"full": table.to_tree(frame), "none": table.to_tree(frame[:0])}))
    with tree.opened(tmp_path / "t.h5") as file:
        read = {name: table.from_tree(columns) for name, columns in tree.read(file).items()}
    pd.testing.assert_frame_equal(read["full"], frame, check_dtype=False)
    assert read["full"]["epoch"].dtype == np.int64 and read["full"]["flag"].dtype == bool
    assert list(read["none"].columns) == list(frame.columns) and len(read["none"]) == 0


def test_a_run_is_returned(run):
    assert run.epochs == [1, 2, 3] and run.last_epoch == 3
    assert run.config == tiny_config("apart", epochs=3)
    assert flat(run.read_epoch(2)) == flat(on_disk(2))
    assert run.info == children.info_of(run.config) and run.schema == 3
    for split, images in PROBE.items():
        np.testing.assert_array_equal(run.probe_set[split], images.index)
        stored = run.probe_images(split)
        assert flat({"x": stored[0], "y": stored[1]}) == flat({"x": images.images, "y": images.labels})
    assert sorted(files(run.path)) == ["epoch-0001.h5", "epoch-0002.h5", "epoch-0003.h5", "run.h5"]


def test_plain_h5py_reads_a_run_through_its_one_file(run):
    with h5py.File(run.path / "run.h5") as file:
        np.testing.assert_array_equal(file["epochs/0001/model/conv1.weight"][:], checkpoint(1)["model"]["conv1.weight"])
        assert file["epochs/0003/metrics"].attrs["clean"] == checkpoint(3)["metrics"]["clean"]


def test_a_run_may_be_moved(run, tmp_path):
    moved = shutil.move(run.path, tmp_path / "elsewhere")
    with h5py.File(Path(moved) / "run.h5") as file:
        assert list(file["epochs/0002/model"]) == ["bn.num_batches_tracked", "conv1.weight"]


# -- image states are rounded ----------------------------------------------------------------------------------------


def images_of(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers like those that methods keep, or as far from it as can be."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1e-3, shape)
    made = {
        "few": rng.choice([-1.0, 0.0, 1.0], shape),
        "few and noise": np.clip(8 / 255 * rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], shape) + noise, -8 / 255, 8 / 255),
        "many": rng.uniform(-1, 1, shape),
        "one and many": np.where(rng.random(shape) < 1e-3, 1e30, noise),
        "zeros": np.zeros(shape),
        "negative": np.full(shape, -0.3),
    }
    return made[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["few", "few and noise", "many", "one and many", "zeros", "negative"])
@pytest.mark.parametrize("shape", [(30, 3, 20, 20), (500, 10), (3001,)])
def test_the_rounding_error_is_bounded(kind, shape, tmp_path):
    state = images_of(kind, shape)
    write_atomic(tmp_path / "x.h5", tree.encode(rounding.rounded(state)))
    with tree.opened(tmp_path / "x.h5") as file:
        stored = tree.read(file, deflated=state.size)
        assert file["integers"].id.get_storage_size() <= 1.01 * state.size + 64
    back, largest = rounding.restored(stored), np.abs(state).max()
    assert back.dtype == np.float32 and back.shape == shape
    assert np.abs(back.astype(float) - state).max() <= 1.001 * largest / 254
    if kind in ("few", "zeros", "negative"):
        np.testing.assert_allclose(back, state, rtol=1e-6)  # there is nothing to round


def test_image_states_are_a_few_percent_of_an_epoch_file(tmp_path):
    """APART's ω of 1,000 images of CIFAR-10 is nearly always -1, 0 or 1; ATTA's δ is within a few levels, and noisy."""
    weights = 4 * 11.2e6
    for kind, share in (("few", 0.02), ("few and noise", 0.06)):
        write_atomic(tmp_path / "x.h5", tree.encode(rounding.rounded(images_of(kind, (1000, 3, 32, 32)))))
        assert (tmp_path / "x.h5").stat().st_size < share * weights


@pytest.mark.parametrize(("levels", "digits"), [(255, 1), (15, 2), (5, 3), (3, 5)])
def test_packed_runs_of_schema_2_can_be_read(levels, digits):
    shape = (3, 2, 5, 7)
    places = np.random.default_rng(0).integers(levels, size=shape)
    numbers, packed = np.moveaxis(places, 1, -1).ravel().tolist(), []
    while numbers:
        byte, numbers = numbers[:digits], numbers[digits:]
        packed.append(sum(place * levels**power for power, place in enumerate(byte)))
    values = np.linspace(-1, 1, levels, dtype=np.float32)
    stored = {"packed": np.array(packed, np.uint8), "values": values, "shape": np.array(shape)}
    np.testing.assert_array_equal(rounding.restored(stored), values[places])


@pytest.mark.parametrize(
    "state", [np.array([[1.0, np.nan]]), np.array([[np.inf]]), np.arange(6).reshape(2, 3), np.zeros((0, 3))]
)
def test_unroundable_arrays_are_stored_exactly(state):
    np.testing.assert_array_equal(rounding.restored(rounding.rounded(state)), state)


def test_only_image_states_are_rounded(tmp_path):
    omega = images_of("many", (30, 1, 8, 8))
    with RunWriter(tmp_path / "run", children.info_of(tiny_config("apart", epochs=2)), PROBE, {}) as writer:
        writer.commit(1, checkpoint(1) | {"images": {"state": omega}}, {"method": {"omega": omega}})
        np.testing.assert_array_equal(writer.resume_state()["method"]["omega"], omega)
    with h5py.File(tmp_path / "run" / "resume-0001.h5") as file:
        assert file["method/omega"].compression is None
    run = StoredRun(tmp_path / "run")
    assert 0 < np.abs(run.image_state(1) - omega).max() < 1 / 250
    assert flat(run.weights(1)) == flat(checkpoint(1)["model"])


def write_older(path: Path, schema: int = 1) -> StoredRun:
    """A run of schema 1, which kept what it has for images as it was, and named its probe images by their numbers."""
    path.mkdir()
    config = tiny_config("apart", epochs=3)
    main = {
        "format": "co-probe run",
        "schema": schema,
        "config": json.dumps(config.to_dict()),
        "environment": json.dumps({"python": "3"}),
        "probe_set": {split: images.index for split, images in PROBE.items()},
        "planned": 3,
        "epochs": {},
    }
    tree.write(path / "run.h5", main, {f"epochs/000{epoch}": (f"epoch-000{epoch}.h5", "/") for epoch in (1, 2, 3)})
    for epoch in (1, 2, 3):
        tree.write(path / f"epoch-000{epoch}.h5", checkpoint(epoch))
    return StoredRun(path)


def test_runs_of_an_earlier_version_are_read_and_gone_on_with(tmp_path):
    run = write_older(tmp_path / "older")
    with h5py.File(run.path / "run.h5") as file:
        assert file.attrs["schema"] == 1
    pack(run, tmp_path / "packed.h5")
    for older in (run, StoredRun(tmp_path / "packed.h5")):
        for epoch in (1, 2, 3):
            np.testing.assert_array_equal(older.image_state(epoch), checkpoint(epoch)["images"]["state"])
    (run.path / "epoch-0003.h5").unlink()
    assert run.info.method == "apart" and run.info.epsilon == 0.14 and run.planned == 3
    (run.path / "resume-0002.h5").write_bytes(tree.encode({"momentum": {"w": np.arange(3.0)}}))
    with RunWriter(run.path, children.info_of(run.config), PROBE, {}, resume=True) as writer:
        assert flat(writer.resume_state()) == flat({"momentum": {"w": np.arange(3.0)}})
        writer.commit(3, checkpoint(3), None)
    run = StoredRun(run.path)
    assert run.schema == 3 and run.probe_images("test") is not None
    assert flat(run.read_epoch(2)) == flat(checkpoint(2)) and run.config.model.name == "preact_resnet_v1"
    assert flat(run.read_epoch(3)) == flat(on_disk(3) | {"run_id": run.info.run_id})


def swap(run: StoredRun, tmp_path: Path) -> None:
    """Put an epoch of another run in the place of this one's."""
    other = write_run(tmp_path / "other", epochs=2)
    shutil.copy(other / "epoch-0002.h5", run.path / "epoch-0002.h5")


def renumber(run: StoredRun, tmp_path: Path) -> None:
    shutil.copy(run.path / "epoch-0003.h5", run.path / "epoch-0002.h5")


@pytest.mark.parametrize(("mistake", "words"), [(swap, "belongs to another run"), (renumber, "is of epoch 3, not 2")])
def test_an_epoch_in_the_wrong_place_is_noticed(run, tmp_path, mistake, words):
    mistake(run, tmp_path)
    for read in (run.weights, run.metrics, run.image_state, run.read_epoch):
        with pytest.raises(DamagedFile, match=rf"epoch-0002\.h5 .*{words}") as caught:
            read(2)
        assert "\n" not in str(caught.value)
    with pytest.raises(DamagedFile, match=words):
        pack(run, tmp_path / "packed.h5")
    assert flat(run.read_epoch(1)) == flat(on_disk(1))


def test_a_resume_file_of_another_run_is_noticed(run, tmp_path):
    other = write_run(tmp_path / "other", epochs=4)
    (other / "epoch-0004.h5").unlink()
    with RunWriter(other, StoredRun(other).info, PROBE, {}, resume=True) as writer:
        writer.commit(4, checkpoint(4), {"momentum": {}})
    (run.path / "epoch-0003.h5").unlink()
    shutil.copy(other / "resume-0004.h5", run.path / "resume-0002.h5")
    with (
        RunWriter(run.path, run.info, PROBE, {}, resume=True) as writer,
        pytest.raises(DamagedFile, match=r"resume-0002\.h5 .*belongs to another run"),
    ):
        writer.resume_state()


INFO_DAMAGE = {
    "epsilon": -0.1,
    "norm": "l7",
    "bounds": np.array([1.0, 0.0]),
    "shape": np.array([1, 8]),
    "classes": np.array([1.0, 2.0]),
    "mean": np.array([np.nan]),
    "std": np.array([0.0]),
    "precision": "float8",
    "planned": 0,
    "seed": "one",
    "run_id": "no hex",
    "model": "{",
    "settings": "[]",
    "method": 3,
}


@pytest.mark.parametrize("name", INFO_DAMAGE)
def test_facts_with_a_wrong_type_or_range_are_refused(run, name):
    main = run.read_main()
    main["info"][name] = INFO_DAMAGE[name]
    write_atomic(run.path / "run.h5", tree.encode(main))
    with pytest.raises(DamagedFile, match=r"run\.h5") as caught:
        StoredRun(run.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"images": np.zeros((40, 1, 8, 9), np.uint8)},
        {"images": np.full((40, 1, 8, 8), np.nan, np.float32)},
        {"images": np.zeros((40, 1, 8, 8), np.int64)},
        {"labels": np.full(40, 10)},
        {"labels": np.zeros(39, np.int64)},
        {"labels": np.zeros(40)},
    ],
)
def test_probe_images_of_a_wrong_shape_are_refused(run, change):
    main = run.read_main()
    main["probe"]["test"] |= change
    write_atomic(run.path / "run.h5", tree.encode(main))
    assert StoredRun(run.path).probe_images("train") is not None
    with pytest.raises(DamagedFile, match=r"run\.h5"):
        StoredRun(run.path).probe_images("test")


def test_an_array_with_a_false_size_is_not_allocated(run):
    with h5py.File(run.path / "epoch-0002.h5", "r+") as file:
        del file["model/conv1.weight"]
        file["model"].create_dataset("conv1.weight", (2**20, 2**20), "f4", chunks=(1024, 1024))  # 4 TiB
    with pytest.raises(DamagedFile, match="said to have 4398046511104 bytes, and 0 are stored"):
        run.weights(2)


def test_a_run_without_metrics_has_none(tmp_path):
    info = children.info_of(tiny_config("fgsm"), settings=None, seed=None, planned=None, attack=None)
    with RunWriter(tmp_path / "run", info, {"test": PROBE["test"]}, {}) as writer:
        for epoch in (1, 2):
            writer.commit(epoch, checkpoint(epoch) | {"metrics": {}, "images": {}}, None)
    run = StoredRun(tmp_path / "run")
    assert run.metrics(2) == {} and run.metric("pgd10") == {}
    assert run.best_epoch == 2 and run.planned == 2 and len(run.frame("metrics")) == 0
    assert run.probe_images("train") is None and run.info == info
    with pytest.raises(UserError, match="was not trained by co-probe"):
        _ = run.config


def test_an_earlier_version_says_to_upgrade(run, monkeypatch):
    pack(run, run.path.parent / "packed.h5")
    monkeypatch.setattr(stored_run, "SCHEMA", 2)
    for path in (run.path, run.path.parent / "packed.h5"):
        with pytest.raises(UserError, match=r"newer co-probe \(schema 3\): upgrade to read it"):
            StoredRun(path)


PACKED = {"packed": np.zeros(150, np.uint8), "values": np.zeros(255), "shape": np.array([30, 1, 5, 1])}


@pytest.mark.parametrize(
    "images",
    [
        {"integers": np.zeros((30, 1, 8, 8)), "scale": 0.5},
        {"integers": np.zeros((30, 1, 8, 8), np.int8)},
        {"integers": np.zeros((30, 1, 8, 8), np.int8), "scale": 0.0},
        {"integers": np.zeros((30, 1, 8, 8), np.int8), "scale": "1"},
        PACKED | {"packed": np.zeros(150)},
        PACKED | {"packed": np.array(7, np.uint8)},
        PACKED | {"values": np.zeros(1)},
        PACKED | {"values": np.zeros(300)},
        PACKED | {"values": 0.5},
        PACKED | {"shape": np.array([5, 5])},
        PACKED | {"shape": np.array([], int)},
        PACKED | {"shape": "none"},
    ],
)
def test_images_with_another_layout_are_refused(run, images):
    assert rounding.restored(PACKED).shape == (30, 1, 5, 1)
    write_atomic(run.path / "epoch-0002.h5", tree.encode(on_disk(2) | {"images": images}))
    with pytest.raises(DamagedFile, match=r"epoch-0002\.h5"):
        run.image_state(2)


# -- damage ----------------------------------------------------------------------------------------------------------


def outcome(read) -> str:
    """`damaged` if reading says so, else what was read; any other exception is the test's failure."""
    try:
        return read()
    except UserError as error:
        assert "\n" not in str(error)
        return "damaged"


READERS = {
    "epoch-0002.h5": lambda path: flat(StoredRun(path).read_epoch(2)),
    "run.h5": lambda path: flat(StoredRun(path).read_main()),
    "results.h5": lambda path: StoredRun(path).frame("gap").to_dict(),
    "packed.h5": lambda path: everything(StoredRun(path / "packed.h5")),
}


@pytest.mark.parametrize(
    ("name", "flips"), [("epoch-0002.h5", 400), ("run.h5", 150), ("results.h5", 150), ("packed.h5", 100)]
)
def test_every_altered_byte_is_detected(run, name, flips):
    run.add_rows("gap", children.rows(run=["ε"] * 3, epoch=[1, 2, 3], value=[0.5, 1.5, 2.5]))
    pack(run, run.path / "packed.h5")
    path, before = run.path / name, READERS[name](run.path)
    good, rng, damaged = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(flips):
        altered, place = bytearray(good), int(rng.integers(len(good)))
        altered[place] ^= int(rng.integers(1, 256))
        path.write_bytes(altered)
        after = outcome(lambda: READERS[name](run.path))
        assert after in ("damaged", before), f"byte {place} of {name} changed, and what was read with it"
        damaged += after == "damaged"
    assert damaged > flips / 4  # the others lie in bytes that hold nothing


def test_every_byte_of_a_scalar_is_under_a_checksum(tmp_path):
    path = tmp_path / "x.h5"
    good = tree.encode({"count": np.array(0x0123456789ABCDEF)})
    start = good.index(int.to_bytes(0x0123456789ABCDEF, 8, "little"))
    for place in range(start, start + 8):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(DamagedFile), tree.opened(path) as file:
            tree.read(file)


def test_every_byte_of_image_states_is_under_a_checksum(run):
    path = run.path / "epoch-0002.h5"
    with h5py.File(path) as file:
        dataset = file["images/integers"]
        assert dataset.fletcher32 and dataset.compression == "gzip" and dataset.id.get_num_chunks() == 1
        chunk = dataset.id.get_chunk_info(0)
    good = path.read_bytes()
    for place in range(chunk.byte_offset, chunk.byte_offset + chunk.size):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(DamagedFile, match=r"epoch-0002\.h5"):
            run.image_state(2)


@pytest.mark.parametrize("name", ["epoch-0002.h5", "run.h5"])
def test_every_truncation_is_detected(run, name):
    path, good = run.path / name, (run.path / name).read_bytes()
    for length in [0, 1, len(good) - 1, *np.random.default_rng(0).integers(len(good), size=100)]:
        path.write_bytes(good[:length])
        with pytest.raises(DamagedFile, match=name):
            READERS[name](run.path)


def test_damage_to_one_epoch_leaves_the_others_readable(run):
    (run.path / "epoch-0002.h5").write_bytes(b"not HDF5")
    assert flat(run.read_epoch(1)) == flat(on_disk(1))
    with pytest.raises(DamagedFile, match=r"epoch-0002\.h5"):
        run.weights(2)


@pytest.mark.parametrize(
    "content",
    [
        {"format": "co-probe run"},
        {"format": "co-probe run", "schema": "one"},
        {"format": "co-probe run", "schema": 1, "config": "{", "environment": "{}"},
        {"format": "co-probe run", "schema": 1, "config": "[1]", "environment": "{}", "probe_set": {}},
        {"format": "co-probe run", "schema": 1, "config": "{}", "environment": "{}", "probe_set": "none"},
        {"format": "co-probe run", "schema": 99},
        {"format": "something else"},
        {},
    ],
)
def test_a_path_that_is_not_a_run_is_reported(tmp_path, content):
    write_atomic(tmp_path / "run.h5", tree.encode(content))
    with pytest.raises(UserError, match=r"run\.h5|not a run of co-probe|written by a newer|settings are missing"):
        _ = StoredRun(tmp_path).config


def test_components_of_wrong_types_are_refused(run):
    write_atomic(run.path / "epoch-0002.h5", tree.encode({"model": np.arange(3), "metrics": {}}))
    for read in (run.weights, run.image_state, run.method_parameters):
        with pytest.raises(DamagedFile):
            read(2)
    write_atomic(run.path / "results.h5", tree.encode({"gap": {"value": np.arange(3)}}))
    with pytest.raises(DamagedFile):
        run.frame("gap")


# -- a full disk -----------------------------------------------------------------------------------------------------


class FullDisk:
    """A disk that takes `room` bytes and no more."""

    def __init__(self, room: int):
        self.room = room

    def open(self, path, mode, buffering=-1):
        disk, file = self, open(path, mode, buffering=buffering)  # noqa: SIM115
        if mode == "rb":
            return file

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, content):
                if not disk.room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written = file.write(content[: disk.room])
                disk.room -= written
                return written

        return Full()

    @property
    def sink(self):
        """What HDF5 writes through, on this disk."""
        disk = self

        class FullSink(tree.Sink):
            def write(self, content):
                part = memoryview(content)[: disk.room]
                disk.room -= super().write(part)
                if len(part) < len(content):
                    self.error = self.error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return len(content)

        return FullSink


def test_a_full_disk_costs_no_finished_epoch(tmp_path, monkeypatch):
    path = write_run(tmp_path / "whole")
    size = sum(map(len, files(path).values()))
    for room in np.random.default_rng(0).integers(size, size=15):
        out = tmp_path / f"room-{room}"
        with monkeypatch.context() as patched:
            disk = FullDisk(room)
            patched.setattr("co_probe.files.atomic.open", disk.open, raising=False)
            patched.setattr(tree, "Sink", disk.sink)
            with pytest.raises(UserError, match="No space left on device"):
                write_run(out)
        kept = {name: content for name, content in files(out).items() if name.startswith("epoch-")}
        assert not [name for name in files(out) if name.endswith((".partial", ".lock"))]
        write_run(out, resume=True)  # there is room again
        assert files(out) == files(path)
        assert {name: files(out)[name] for name in kept} == kept


def test_a_full_disk_does_not_change_the_stored_table(run, monkeypatch):
    old, new = children.rows(epoch=[1], value=[0.5]), children.rows(epoch=[1], value=[0.7])
    run.add_rows("gap", old)
    monkeypatch.setattr("co_probe.files.atomic.open", FullDisk(100).open, raising=False)
    with pytest.warns(NotStored, match="No space left"):
        run.add_rows("gap", new)
    assert StoredRun(run.path).frame("gap")["value"].tolist() == [0.5]


@pytest.mark.parametrize("limit", [0, 3000, 9000])
def test_the_kernel_refusing_to_write_is_a_clear_error(run, tmp_path, limit):
    before, target = files(run.path), tmp_path / "packed.h5"
    target.write_bytes(b"what was there before")
    settings = tiny_config("fgsm", epochs=2).to_dict()
    for work, args in ((children.write_run, (tmp_path / "new", settings)), (children.pack_run, (run.path, target))):
        refused = work is children.pack_run or limit < 9000  # each of that run's files is shorter than that
        assert children.run(children.under_a_limit, limit, work, *args) == (42 if refused else 0)
    assert files(run.path) == before and target.read_bytes() == b"what was there before"
    assert not [*tmp_path.rglob(".*.partial")]


# -- one writer at a time --------------------------------------------------------------------------------------------


def test_the_error_of_a_second_writer_names_the_first(tmp_path):
    path = write_run(tmp_path / "run")
    with (
        RunWriter(path, children.info_of(tiny_config("apart")), PROBE, {}, resume=True),
        pytest.raises(UserError, match=f"process {os.getpid()} on {socket.gethostname()}"),
    ):
        write_run(path, resume=True)
    assert not (path / "run.lock").exists()


def test_another_process_keeps_its_lock_until_it_dies(tmp_path):
    ready, done, path = children.context.Event(), children.context.Event(), tmp_path / "run.lock"
    process = children.context.Process(target=children.hold, args=(path, ready, done))
    process.start()
    assert ready.wait(60)
    with pytest.raises(UserError, match=f"it is being written by process {process.pid} on"), Lock(path, "it"):
        pass
    process.kill()
    process.join()
    assert json.loads(path.read_text())["pid"] == process.pid
    with Lock(path, "it"):  # stale, and taken over
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_lock_of_another_host_is_respected(run):
    lock = run.path / "run.lock"
    lock.write_text(json.dumps({"pid": 1234, "host": "elsewhere"}))
    with pytest.raises(UserError, match=r"process 1234 on elsewhere.*delete .*run\.lock"):
        write_run(run.path, resume=True)
    assert json.loads(lock.read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_lock_that_names_nobody_is_taken_over(run, content):
    (run.path / "run.lock").write_text(content)
    write_run(run.path, resume=True)


def test_tables_of_two_processes_are_both_stored(run):
    start = children.context.Barrier(2)
    processes = [
        children.context.Process(target=children.save_tables, args=(run.path, name, start))
        for name in ("gap", "strength")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert run.probes() == ["common", "gap", "strength"]
    for name in ("gap", "strength"):
        common = run.frame("common")
        assert run.frame(name)["value"].tolist() == [9]
        assert common[common["quantity"] == name]["epoch"].tolist() == list(range(10))


def test_new_measurements_replace_old_ones(run):
    run.add_rows("gap", children.rows(against=["pgd10"] * 2, epoch=[1, 2], value=[0.1, 0.2], n=[5, 5]))
    run.add_rows("gap", children.rows(against=["pgd20"], epoch=[2], value=[0.3], n=[5]))
    frame = run.add_rows("gap", children.rows(against=["pgd10"], epoch=[2], value=[0.4], n=[6]))
    assert frame["value"].tolist() == [0.1, 0.3, 0.4]
    pd.testing.assert_frame_equal(run.frame("gap"), frame.assign(run=run.name), check_dtype=False)


# -- somebody else's run is data -------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of ours, outside the run."""
    path = tmp_path / "secret.h5"
    write_atomic(path, tree.encode(checkpoint(9)))
    return path


@pytest.mark.parametrize("name", ["epoch-0002.h5", "run.h5", "results.h5"])
def test_a_file_that_links_out_of_the_run_is_not_followed(run, secret, name):
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(secret)
    with pytest.raises(DamagedFile, match="links are not followed"):
        everything(StoredRun(run.path))
    with pytest.raises(DamagedFile, match="links are not followed"):
        pack(StoredRun(run.path), run.path.parent / "packed.h5")


def soft(group, secret):
    group["conv1.weight"] = h5py.SoftLink("/metrics")


def external_link(group, secret):
    group["conv1.weight"] = h5py.ExternalLink(str(secret), "/model/conv1.weight")


def virtual(group, secret):
    layout = h5py.VirtualLayout((4, 1, 3, 3), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "/model/conv1.weight", (4, 1, 3, 3))
    group.create_virtual_dataset("conv1.weight", layout)


def external_storage(group, secret):
    group.create_dataset("conv1.weight", (4, 1, 3, 3), "f4", external=[(str(secret), 0, 144)])


def whole_group(group, secret):
    parent = group.parent
    del parent["model"]
    parent["model"] = h5py.ExternalLink(str(secret), "/model")


@pytest.mark.parametrize("trick", [soft, external_link, virtual, external_storage, whole_group])
@pytest.mark.parametrize("packed", [False, True])
def test_links_inside_a_file_are_not_followed(run, secret, trick, packed):
    path = run.path / "epoch-0002.h5"
    if packed:
        path = run.path.parent / "packed.h5"
        pack(run, path)
        run = StoredRun(path)
    with h5py.File(path, "r+") as file:
        group = file["epochs/0002/model" if packed else "model"]
        del group["conv1.weight"]
        trick(group, secret)
    with pytest.raises(DamagedFile, match="links are not followed"):
        run.weights(2)


def test_a_run_that_holds_itself_ends(run):
    with h5py.File(run.path / "epoch-0002.h5", "r+") as file:
        file["model/again"] = file["model"]
    with pytest.raises(DamagedFile):
        run.weights(2)


@pytest.mark.parametrize("name", ["run.lock", ".run.h5.partial", ".epoch-0003.h5.partial", ".resume-0001.h5.partial"])
def test_resuming_does_not_write_through_links(tmp_path, name):
    victim, run = tmp_path / "victim", write_run(tmp_path / "run", 3)
    victim.write_text("mine")
    (run / "epoch-0003.h5").unlink()
    (run / "epoch-0002.h5").unlink()
    (run / name).symlink_to(victim)
    outcome(lambda: write_run(run, resume=True))
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["results.lock", ".results.h5.partial", "results.h5"])
def test_measuring_does_not_write_through_links(run, name):
    victim = run.path.parent / "victim"
    victim.write_text("mine")
    (run.path / name).symlink_to(victim)
    outcome(lambda: run.add_rows("gap", children.rows(value=[1.0])))
    assert victim.read_text() == "mine"


# -- packed runs -----------------------------------------------------------------------------------------------------


def test_a_packed_run_is_the_same_run(run, tmp_path):
    run.add_rows("gap", children.rows(run=[run.name], epoch=[1], value=[0.5]))
    pack(run, tmp_path / "sent.h5")
    packed = StoredRun(tmp_path / "sent.h5")
    assert packed.name == "sent" and packed.epochs == run.epochs and packed.config == run.config
    assert {k: v for k, v in everything(packed).items() if "/run" not in k} == {
        k: v for k, v in everything(run).items() if "/run" not in k
    }
    for probe in ("metrics", "steps", "gap"):
        pd.testing.assert_frame_equal(packed.frame(probe), run.frame(probe).assign(run="sent"))
    assert packed.frame("gap")["run"].tolist() == ["sent"]


def test_results_of_a_packed_run_are_stored_beside_it(run, tmp_path):
    run.add_rows("gap", children.rows(value=[0.5]))
    path = tmp_path / "sent.h5"
    pack(run, path)
    before = path.read_bytes()
    StoredRun(path).add_rows("strength", children.rows(value=[0.7]))
    assert path.read_bytes() == before
    assert (tmp_path / "sent.results.h5").exists()
    assert StoredRun(path).probes() == ["gap", "strength"]


def test_a_packed_run_may_be_packed_again(run, tmp_path):
    pack(run, tmp_path / "once.h5")
    pack(StoredRun(tmp_path / "once.h5"), tmp_path / "twice.h5")
    assert everything(StoredRun(tmp_path / "twice.h5")) == everything(StoredRun(tmp_path / "once.h5"))
    with h5py.File(tmp_path / "twice.h5") as file:
        assert file["epochs/0001/images/integers"].compression == "gzip"
    with pytest.raises(UserError, match="is the run itself"):
        pack(StoredRun(tmp_path / "once.h5"), tmp_path / "once.h5")


def test_a_damaged_run_is_not_packed(run, tmp_path):
    content = bytearray((run.path / "epoch-0002.h5").read_bytes())
    place = content.index(checkpoint(2)["model"]["conv1.weight"].tobytes())
    content[place + 100] ^= 1
    (run.path / "epoch-0002.h5").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"epoch-0002\.h5"):
        pack(run, tmp_path / "sent.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["apart"]


def test_find_runs_finds_folders_and_packed_files(run, tmp_path):
    pack(run, tmp_path / "sent.h5")
    StoredRun(tmp_path / "sent.h5").add_rows("gap", children.rows(value=[0.7]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("not a run")
    (tmp_path / "text.h5").write_text("not HDF5")
    write_atomic(tmp_path / "other.h5", tree.encode({"format": "something else"}))
    assert [p.name for p in find_runs(tmp_path)] == ["apart", "sent.h5"]
    assert find_runs(tmp_path / "nowhere") == []


# -- starting, resuming, starting again -------------------------------------------------------------------------------


def test_a_run_is_neither_overwritten_nor_resumed_unasked(run):
    before = files(run.path)
    with pytest.raises(UserError, match=r"resume=True continues it, overwrite=True deletes it first"):
        write_run(run.path)
    assert files(run.path) == before


def test_a_folder_without_a_run_is_not_changed(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match=r"not a run and not empty \(it has thesis\.tex\)"):
            write_run(tmp_path, **options)
    assert files(tmp_path) == {"thesis.tex": b"years of work"}


def test_resuming_with_other_settings_is_refused(run):
    before = files(run.path)
    with pytest.raises(UserError, match="trained with other settings: epochs is 3, not 5"):
        write_run(run.path, epochs=5, resume=True)
    assert files(run.path) == before


def test_epochs_without_their_run_file_are_not_taken_for_a_new_run(run):
    (run.path / "run.h5").unlink()
    before = files(run.path)
    with pytest.raises(UserError, match=r"has epochs but no run\.h5"):
        write_run(run.path, epochs=5, resume=True)
    assert files(run.path) == before
    assert StoredRun(write_run(run.path, epochs=2, overwrite=True)).epochs == [1, 2]


def test_overwriting_leaves_nothing_of_the_old_run(run):
    run.add_rows("gap", children.rows(value=[0.7]))
    write_run(run.path, epochs=1, overwrite=True)
    assert sorted(files(run.path)) == ["epoch-0001.h5", "run.h5"]


def test_a_missing_resume_file_says_so(tmp_path):
    path = write_run(tmp_path / "run")
    (path / "epoch-0003.h5").unlink()
    with (
        RunWriter(path, children.info_of(tiny_config("apart")), PROBE, {}, resume=True) as writer,
        pytest.raises(UserError, match=r"resume-0002\.h5 is missing; overwrite=True starts again"),
    ):
        writer.resume_state()


def test_rows_on_another_device_are_copied_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(tree._chunks, "__defaults__", (100,))  # bytes
    there, asked = np.arange(35, dtype=np.float32).reshape(5, 7), []

    class Elsewhere(tree.Rows):
        shape, dtype = there.shape, there.dtype

        def __getitem__(self, rows):
            asked.append(there[rows].nbytes)
            return there[rows]

    tree.write(tmp_path / "file.h5", {"part": {"array": Elsewhere()}})
    with tree.opened(tmp_path / "file.h5") as file:
        np.testing.assert_array_equal(tree.read(file)["part"]["array"], there)
    assert asked == [84, 56]

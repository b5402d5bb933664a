"""`.pt` files that somebody else made are checked before memory is taken for what they say that they hold."""

import pickle
import zipfile
from pathlib import Path

import made_files
import pytest
import torch
from made_files import modestly, repacked
from torch import Tensor, nn

from co_probe.errors import DamagedFile, UserError
from co_probe.runs import Run, checkpoints
from co_probe.runs.checkpoints import export, load_reference
from co_probe.runs.state_dicts import read_state_dict


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    """An exported file: read it, do not write to it."""
    path = tmp_path_factory.mktemp("exported") / "model.pt"
    export(Run(trained / "fgsm"), 3, path)
    return path


def changed(path: Path, out: Path, changes: dict, check: bool = True) -> Path:
    """The file with changes and, where it can be computed, the checksum of those."""
    content = torch.load(path, weights_only=True)
    content.pop("checksum")
    content |= changes
    torch.save(content | ({"checksum": checkpoints._checksum(content)} if check else {}), out)
    return out


def refused(path: Path, error: type[UserError] = DamagedFile) -> str:
    with modestly(), pytest.raises(error) as caught:
        load_reference(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 0}, "schema"),
        ({"schema": "2"}, "schema"),
        ({"schema": True}, "schema"),
        ({"precision": "float8"}, "precision"),
        ({"precision": 5}, "precision"),
        ({"bounds": [float("nan"), 1.0]}, "bounds"),
        ({"bounds": [1.0, 0.0]}, "bounds"),
        ({"bounds": ["a", "b"]}, "bounds"),
        ({"bounds": [0.0]}, "bounds"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": "0.1"}, "epsilon"),
        ({"shape": [1e9, 8, 8]}, "shape"),
        ({"shape": [10**9, 8, 8]}, "shape"),
        ({"shape": [1, 8]}, "shape"),
        ({"shape": [-1, 8, 8]}, "shape"),
        ({"classes": ["a", 5]}, "class"),
        ({"classes": [str(n) for n in range(100_000)]}, "the weights do not fit"),
        ({"mean": [float("nan")]}, "mean"),
        ({"std": [0.0]}, "std"),
        ({"std": ["1"]}, "std"),
        ({"model": None}, "NoneType"),
        ({"model": {"name": "preact_resnet", "width": 64}}, "the weights do not fit"),
        ({"model": {"name": "preact_resnet", "width": 8, "blocks": [900, 1, 1, 1]}}, "the weights do not fit"),
        ({"architecture": "2"}, "architecture"),
        ({"wrappers": 5}, "int"),
    ],
)
def test_the_description_of_a_model_in_a_file_is_checked(change, words, exported, tmp_path):
    assert words in refused(changed(exported, tmp_path / "x.pt", change))


def test_a_later_schema_says_to_upgrade(exported, tmp_path):
    assert "newer co-probe (schema 99): upgrade" in refused(
        changed(exported, tmp_path / "x.pt", {"schema": 99}), UserError
    )


def test_a_file_without_its_checksum_is_not_trusted(exported, tmp_path):
    assert "checksum" in refused(changed(exported, tmp_path / "x.pt", {}, check=False))


WEIGHTS = {
    "integers": lambda weight: weight.long(),
    "another precision": lambda weight: weight.double(),
    "half precision": lambda weight: weight.half(),
    "another shape": lambda weight: weight[:1],
    "complex": lambda weight: weight.to(torch.complex64),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_are_of_the_types_and_shapes_of_the_model(kind, exported, tmp_path):
    weights = torch.load(exported, weights_only=True)["weights"]
    for name in ("linear.weight", next(name for name in weights if "num_batches" in name)):
        value = WEIGHTS[kind](weights[name].reshape(1, -1) if kind == "another shape" else weights[name])
        if value.dtype != weights[name].dtype or value.shape != weights[name].shape:
            out = changed(exported, tmp_path / "x.pt", {"weights": weights | {name: value}})
            assert f"{name} is {value.dtype} of shape {tuple(value.shape)}, not {weights[name].dtype}" in refused(out)


def test_weights_of_a_run_are_of_the_types_of_the_model(runs):
    import h5py

    with h5py.File(runs / "fgsm" / "epoch-0002.h5", "r+") as file:
        value = file["model/linear.weight"][...]
        made_files.put(file, "model/linear.weight", value.astype("f8"))
    with pytest.raises(DamagedFile, match=r"linear\.weight is torch\.float64 of shape .*, not torch\.float32"):
        Run(runs / "fgsm").load_model(2)


LARGE = {
    "a compressed archive": lambda path: torch.save({"w": torch.zeros(2**24)}, path) or repacked(path),
    "an expanded tensor": lambda path: torch.save({"w": torch.zeros(1).expand(2**20, 2**20)}, path),
    "a dictionary that holds itself": lambda path: torch.save(made_files.container_of_itself(), path),
    "lists that hold the next twice": lambda path: torch.save({"w": torch.zeros(2), "l": made_files.doubling()}, path),
    "a sparse tensor": lambda path: torch.save({"w": torch.eye(3).to_sparse()}, path),
    "a quantised tensor": lambda path: torch.save({"w": torch.zeros(3, device="meta")}, path),
}


@pytest.mark.parametrize("kind", LARGE)
def test_files_that_expand_excessively_are_refused(kind, tmp_path):
    path = tmp_path / "x.pt"
    LARGE[kind](path)
    assert "cannot be read as a checkpoint" in refused(path)
    with modestly(), pytest.raises(DamagedFile, match="cannot be read as a checkpoint"):
        read_state_dict(path)


def test_overlapping_parts_are_limited_by_the_file_size(tmp_path):
    """A central directory that names one part many times, as in zip bombs without compression."""
    path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(2**16)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith("data/0"))
        archive.filelist += [entry] * 1000
        archive._didModify = True  # type: ignore[attr-defined]  # so that it writes its directory again
    assert "larger than the file" in refused(path)


def test_a_tar_archive_is_not_unpacked(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "x.pt", "w") as archive:
        archive.add(__file__, "storages")
    assert "tar archive" in refused(tmp_path / "x.pt")


def test_deep_containers_are_a_clear_error(tmp_path):
    content: dict = {"w": torch.zeros(2)}
    for _ in range(300):
        content = {"state_dict": content}
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(DamagedFile, match="containers"):
        read_state_dict(tmp_path / "x.pt")


def test_usual_checkpoints_are_read(tmp_path):
    """Tied weights, an optimizer's state, bookkeeping of other programs, and the format before PyTorch 1.6."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    content = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "args": ["--lr", 0.1], "epoch": 3}
    for number, options in enumerate(({}, {"_use_new_zipfile_serialization": False})):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path, **options)
        found = read_state_dict(path).weights
        assert list(found) == ["0.weight", "1.weight"] and all(isinstance(value, Tensor) for value in found.values())
        assert torch.equal(found["1.weight"], model[0].weight)


def test_a_storage_that_is_larger_than_the_file_is_refused(tmp_path):
    """The format before PyTorch 1.6 says how large a storage is, and that much is allocated for it."""
    path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(7)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert pickle.dumps(7, 2)[2:-1] in content
    path.write_bytes(content.replace(b"K\x07", b"J\xff\xff\xff\x0f"))  # 2**28 numbers
    refused(path)

"""Images and labels in one file."""

import io
import os
import zipfile
from pathlib import Path

import made_files
import numpy as np
import pytest
import torch

from co_probe.data.coerce import coerce
from co_probe.data.image_file import is_image_file, read_images
from co_probe.errors import UserError

X, Y = np.random.default_rng(0).integers(256, size=(6, 1, 8, 8), dtype=np.uint8), np.arange(6)


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_of_numpy_and_torch_hold_images(at):
    np.savez("a.npz", x=X, y=Y)
    torch.save({"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}, "a.pt")
    torch.save((torch.from_numpy(X), torch.from_numpy(Y)), "pair.pth")
    for name in ("a.npz", "a.pt", "pair.pth"):
        found = coerce(name)
        assert np.array_equal(found.x.numpy(), X) and found.y.tolist() == list(range(6)) and found.source == name
        assert read_images(name, "train") is None
        with pytest.raises(UserError, match=f"{name} holds no train images: they are called x_train and y_train"):
            coerce(name, split="train")


@pytest.mark.parametrize(
    "names", [("x_test", "y_test", "x_train", "y_train"), ("test_x", "test_y", "train_x", "train_y")]
)
def test_a_file_may_hold_training_images_too(at, names):
    np.savez_compressed(at / "both.npz", **dict(zip(names, (X, Y, X[:2], Y[:2]), strict=True)))
    assert len(coerce(at / "both.npz").y) == 6 and len(coerce(at / "both.npz", split="train").y) == 2


def test_names_of_data_sets_are_not_files():
    assert [is_image_file(name) for name in ("digits", "image-folder:a.npz/x", (X, Y), "a.npz")] == [0, 0, 0, 1]


class Pickled:
    def __reduce__(self):
        return (pytest.fail, ("it was executed",))


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("none.npz", lambda path: None, "none.npz does not exist"),
        ("folder.npz", lambda path: path.mkdir(), "is no file"),
        ("text.npz", lambda path: path.write_text("x,y"), "is no .npz of numpy, or was cut off"),
        ("other.npz", lambda path: np.savez(path, a=X, b=Y), "must hold images x and labels y, and it holds a, b"),
        ("objects.npz", lambda path: np.savez(path, x=np.array([Pickled()]), y=Y), "cannot be read as a .npz"),
        ("text.pt", lambda path: path.write_text("x,y"), "is no .pt, or holds other objects than tensors"),
        ("code.pt", lambda path: torch.save({"x": Pickled(), "y": 1}, path), "holds other objects than tensors"),
        ("lists.pt", lambda path: torch.save({"x": [1], "y": [2]}, path), "x must be a tensor, not list"),
        ("tensor.pt", lambda path: torch.save(torch.zeros(3), path), "must hold a dictionary with x and y"),
        ("flat.npz", lambda path: np.savez(path, x=X[:, 0], y=Y), "without an axis of channels"),
    ],
)  # fmt: skip
def test_files_of_another_kind_are_refused_in_one_line(at, name, make, said):
    make(at / name)
    with pytest.raises(UserError, match=said) as caught:
        coerce(name)
    assert "\n" not in str(caught.value)


# -- files that say more than they hold ------------------------------------------------------------------------------


def npz(path: Path, y: np.ndarray = Y, compression: int = zipfile.ZIP_STORED, **changes) -> None:
    """Write an archive whose `x.npy` has a header with changes, and the bytes of `X` after it."""
    header, labels = io.BytesIO(), io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": X.shape} | changes
    np.lib.format.write_array_header_1_0(header, about)
    np.save(labels, y)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", header.getvalue() + X.tobytes())
        archive.writestr("y.npy", labels.getvalue())


MADE = {
    "a shape of more": (lambda path: npz(path, shape=(10**9, 1, 8, 8)), "is said to be of shape"),
    "a shape of less": (lambda path: npz(path, shape=(3, 1, 8, 8)), "is said to be of shape"),
    "a negative shape": (lambda path: npz(path, shape=(-6, -1, 8, 8)), "is said to be of shape"),
    "an enormous shape": (lambda path: npz(path, shape=(2**70, 1, 8, 8)), "is said to be of shape"),
    "times": (lambda path: npz(path, descr="<M8[s]", shape=(6, 1, 8, 1)), "numbers are needed"),
    "structures": (lambda path: npz(path, descr=[("a", "<i4"), ("b", "<f4")]), "cannot be read as a .npz"),
    "bytes": (lambda path: npz(path, descr="|S8", shape=(6, 1, 8)), "numbers are needed"),
    "objects": (lambda path: npz(path, descr="|O", shape=(48,)), "numbers are needed"),
    "another compression": (lambda path: npz(path, compression=zipfile.ZIP_LZMA), "in another way than numpy"),
    "no array": (lambda path: zipfile.ZipFile(path, "w").writestr("x.npy", b"x"), "must hold images x and labels y"),
    "a bomb": (
        lambda path: np.savez_compressed(path, x=np.zeros((2000, 1, 256, 256), np.uint8), y=np.zeros(2000, int)),
        "is said to hold",
    ),
    "labels that count far": (lambda path: npz(path, np.array([0, 1, 2, 3, 4, 10**15])), "labels run up to 10000000"),
    "one label": (lambda path: npz(path, np.array(3)), "labels are one number"),
    "one pixel": (lambda path: np.savez(path, x=np.array(3), y=Y), "images are one number"),
    "no pixels": (lambda path: np.savez(path, x=np.zeros((6, 1, 8, 0)), y=Y), "have shape"),
    "long doubles": (lambda path: np.savez(path, x=X.astype(np.longdouble), y=Y), "numbers are needed"),
    "complex numbers": (lambda path: np.savez(path, x=X.astype(complex), y=Y), "images are complex128"),
    "wide numbers": (lambda path: np.savez(path, x=X.astype(float) * 1e300, y=Y), "images are floats"),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_made_npz_is_refused_in_one_line_and_little_memory(kind, at):
    make, said = MADE[kind]
    make(at / "x.npz")
    with made_files.modestly(), pytest.raises(UserError, match=said) as caught:
        coerce("x.npz")
    assert "\n" not in str(caught.value)


TENSORS = {
    "expanded": lambda: torch.zeros(1).expand(2**20, 1, 32, 32),
    "sparse": lambda: torch.zeros(6, 1, 8, 8).to_sparse(),
    "on no device": lambda: torch.zeros(6, 1, 8, 8, device="meta"),
    "eight-bit floats": lambda: torch.zeros(6, 1, 8, 8).to(torch.float8_e5m2),
    "containers of themselves": made_files.container_of_itself,
    "containers without end": made_files.doubling,
}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_made_pt_is_refused_in_one_line_and_little_memory(kind, at):
    torch.save({"x": TENSORS[kind](), "y": torch.from_numpy(Y)}, "x.pt")
    with made_files.modestly(), pytest.raises(UserError) as caught:
        coerce("x.pt")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_compressed_pt_is_refused(at):
    torch.save({"x": torch.zeros(2000, 1, 256, 256), "y": torch.zeros(2000).long()}, "x.pt")
    made_files.repacked(at / "x.pt")
    with made_files.modestly(), pytest.raises(UserError, match="compressed archive"):
        coerce("x.pt")


@pytest.mark.parametrize("name", ["x.npz", "x.pt"])
def test_a_pipe_is_not_waited_for(name, at):
    os.mkfifo(name)
    with pytest.raises(UserError, match="is no file"):
        coerce(name)


@pytest.mark.parametrize("dtype", [">i2", ">f4", "<u2", "<f8", "<f2"])
def test_arrays_of_any_byte_order_and_width_are_taken(dtype, at):
    x = X if dtype[1] in "iu" else X / 255
    np.savez("x.npz", x=np.asfortranarray(x.astype(dtype)), y=Y.astype(">i4"))
    found = coerce("x.npz")
    assert found.x.shape == X.shape and found.y.tolist() == list(range(6))
    assert dtype == "<f2" or np.array_equal(found.x.numpy() if found.x.dtype == torch.uint8 else found.x * 255, X)

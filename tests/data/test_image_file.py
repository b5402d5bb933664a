"""Images and labels in one file."""

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


def test_names_of_data_sets_are_no_files():
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
        ("lists.pt", lambda path: torch.save({"x": [1], "y": [2]}, path), "x must be an array or a tensor, not list"),
        ("tensor.pt", lambda path: torch.save(torch.zeros(3), path), "must hold a dictionary with x and y"),
        ("flat.npz", lambda path: np.savez(path, x=X[:, 0], y=Y), "without an axis of channels"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused_in_one_line(at, name, make, said):
    make(at / name)
    with pytest.raises(UserError, match=said) as caught:
        coerce(name)
    assert "\n" not in str(caught.value)

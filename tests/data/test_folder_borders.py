"""What lies in a folder of images and is no image, or not as it looks."""

import os
import zlib
from pathlib import Path

import h5py
import made_files
import numpy as np
import pytest
from PIL import Image

from co_probe.data import DATA
from co_probe.errors import UserError


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Two classes of five images each."""
    monkeypatch.setenv("CO_PROBE_DATA", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(5):
            image = Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8))
            image.save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


def sixteen_bits(color_type: int, channels: int) -> bytes:
    """A PNG file with 16 bits per channel, which Pillow cannot write."""
    rows = b"".join(b"\0" + bytes(range(8 * channels * 2)) for _ in range(8))
    return made_files.png(8, 8, zlib.compress(rows), depth=16, color_type=color_type)


def refused(tree: Path) -> str:
    with pytest.raises(UserError) as error:
        DATA.make(f"image-folder:{tree}")
    return str(error.value)


def test_a_link_to_a_folder_above_is_named(tree):
    (tree / "dog" / "again").symlink_to(tree / "dog")
    assert f"{tree}/dog/again is a link to a folder that contains it" in refused(tree)


def test_a_link_to_another_folder_is_followed(tree, tmp_path):
    (tree / "dog").rename(tmp_path / "dogs")
    (tree / "dog").symlink_to(tmp_path / "dogs")
    assert DATA.make(f"image-folder:{tree}").classes == ("cat", "dog")


def test_a_pipe_is_named_and_not_waited_for(tree):
    os.mkfifo(tree / "cat" / "9.png")
    assert refused(tree) == f"{tree}/cat/9.png is no regular file: remove it"


def test_devices_are_not_images():
    assert "/dev" in refused(Path("/dev"))


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_images_of_16_bits_are_refused(color_type, channels, tree):
    (tree / "cat" / "2.png").write_bytes(sixteen_bits(color_type, channels))
    assert f"{tree}/cat/2.png has more than 8 bits a channel" in refused(tree)


def test_names_that_are_not_utf8_are_accepted(tree):
    (tree / "cat").rename(tree / os.fsdecode(b"c\xff"))
    assert DATA.make(f"image-folder:{tree}").classes == (os.fsdecode(b"c\xff"), "dog")


def test_an_image_with_a_false_size_is_not_allocated(tree):
    (tree / "cat" / "2.png").write_bytes(made_files.png(9000, 9000, made_files.zeros(9000 * 1126), depth=1))
    with made_files.modestly():
        assert "2.png is not a readable image (it is said to have 9000×9000 pixels" in refused(tree)


def test_a_narrow_image_is_not_stretched(tree):
    Image.new("RGB", (1, 30_000)).save(tree / "cat" / "2.png")
    with made_files.modestly(), pytest.raises(UserError, match="too narrow for a square of it"):
        DATA.make(f"image-folder:{tree}", size=64)


WRONG = {
    "another type": lambda shape: np.zeros(shape, np.int64),
    "other many": lambda shape: np.zeros((shape[0] - 1, *shape[1:]), np.uint8),
    "without channels": lambda shape: np.zeros(shape[0], np.uint8),
    "compressed": made_files.bomb((10, 3, 8, 8), "u1"),
    "a group": {},
    "nothing": None,
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_altered_cache_is_rebuilt(kind, tree):
    before = DATA.make(f"image-folder:{tree}")
    (cache,) = (tree.parent / "home" / "image-folders").glob("*.h5")
    with h5py.File(cache, "r+") as file:
        value = WRONG[kind]
        made_files.put(
            file, "images", value(file["images"].shape) if kind != "compressed" and callable(value) else value
        )
    assert DATA.make(f"image-folder:{tree}").train_x.equal(before.train_x)

"""Images that somebody else made, in data files and in folders, however odd: the endings of `test_made_files`."""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import made_files
import numpy as np
import pytest
import torch
from campaigns import alter, arrays, campaign, check_ending, modest_memory, run_command, scalars, tensor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from co_probe.models import MODELS

FILES, FOLDERS = 150, 120  # examples

IMAGES = np.random.default_rng(0).integers(256, size=(30, 3, 8, 8), dtype=np.uint8)
LABELS = np.arange(30) % 2

pytestmark = pytest.mark.slow


@pytest.fixture
def at(tmp_path: Path, monkeypatch) -> Path:
    """A folder with the checkpoint of another program."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CO_PROBE_DATA", str(tmp_path / "home"))
    network = MODELS.load("preact_resnet")(3, 2, (0.5,) * 3, (0.3,) * 3, width=8, blocks=[1, 1, 1, 1])
    torch.save(network.state_dict(), "theirs.pth")
    with modest_memory():
        yield tmp_path


def ending_of_import(data: str) -> str:
    """How it ends to import the checkpoint with these images."""
    shutil.rmtree("imported", ignore_errors=True)
    arguments = ["--model", "preact_resnet", "--set", "width=8", "--set", "blocks=[1,1,1,1]", "--epsilon", "0.1"]
    arguments += ["--images", "10", "--no-check", "--out", "imported", "--device", "cpu"]
    return check_ending(*run_command("import", "theirs.pth", "--data", data, *arguments))


def damaged(data: Any, content: bytes) -> bytes:
    """With some bytes altered or missing."""
    places = st.integers(0, len(content) - 1)
    altered = bytearray(content)
    for place in data.draw(st.lists(places, max_size=4), "altered"):
        altered[place] ^= data.draw(st.integers(1, 255), "by")
    return bytes(altered[: data.draw(st.sampled_from([None, len(content) // 2, 20, 0]), "cut off")])


def test_files_of_images(at):
    endings = set()

    @campaign(FILES)
    @given(st.data())
    def one(data: Any) -> None:
        content: dict[str, Any] = {"x": IMAGES, "y": LABELS}
        part, kind = data.draw(st.sampled_from(["x", "y", "file"]), "part"), data.draw(st.sampled_from(KINDS), "kind")
        if part != "file":
            good = content[part]
            odd = [
                good[:-1],
                good[None],
                good.astype("f8"),
                good.astype(">i4"),
                good / 255,
                -good.astype("i8") - 5,
                good + 1,
            ]
            content[part] = data.draw(st.one_of(arrays(), scalars, *map(st.just, odd)), "value")
        path = Path(f"x.{kind.partition(' ')[0]}")
        if path.suffix == ".pt":
            torch.save({k: tensor(v) if isinstance(v, np.ndarray) else v for k, v in content.items()}, path)
        else:
            (np.savez_compressed if kind.endswith("compressed") else np.savez)(path, **content)
        if part == "file":
            path.write_bytes(damaged(data, path.read_bytes()))
        endings.add(ending_of_import(str(path)))

    one()
    assert endings == {"result", "refused"}


KINDS = ["npz", "npz compressed", "pt"]


@st.composite
def pictures(draw: Any) -> bytes:
    """The content of a picture's file, or of none."""
    if draw(st.booleans()):
        sizes = st.sampled_from([0, 1, 7, 8, 9000, 2**31 - 1])
        pixels = draw(st.sampled_from([b"", made_files.zeros(100), made_files.zeros(2**24)]))
        depth, kind = draw(st.sampled_from([1, 8, 16, 3])), draw(st.sampled_from([0, 2, 3, 4, 6, 9]))
        return made_files.png(draw(sizes), draw(sizes), pixels, depth, kind)
    mode = draw(st.sampled_from(["RGB", "L", "P", "1", "RGBA", "CMYK", "I;16", "F", "LA"]))
    side = draw(st.sampled_from([1, 8, 9]))
    picture, out = Image.new(mode, (side, 8)), io.BytesIO()
    try:
        picture.save(out, draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])))
    except (OSError, ValueError, KeyError):  # no such pictures in this format
        return b""
    return out.getvalue()


ODD = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a loop": lambda path: os.symlink(Path(path).parent.absolute(), path),
    "a link to nothing": lambda path: os.symlink("nothing", path),
    "an empty file": lambda path: Path(path).touch(),
    "a file of text": lambda path: Path(path).write_text("nan"),
}


def test_folders_of_images(at):
    endings = set()

    @campaign(FOLDERS)
    @given(st.data())
    def one(data: Any) -> None:
        for folder in ("pets", "home"):
            shutil.rmtree(folder, ignore_errors=True)
        for name, image in zip(["cat", "dog"] * 6, IMAGES, strict=False):
            Path("pets", name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(Path("pets", name, f"{len(os.listdir(f'pets/{name}'))}.png"))
        place = data.draw(st.sampled_from(["a picture", "an odd thing", "a name", "the cache"]), "place")
        name = data.draw(st.sampled_from(["7.png", "a\nb.png", "\udcff.png", ".hidden", "x" * 200 + ".jpg"]), "name")
        if place == "a picture":
            Path("pets/cat", name).write_bytes(damaged(data, data.draw(pictures(), "content") or b"x"))
        elif place == "an odd thing":
            ODD[data.draw(st.sampled_from(sorted(ODD)), "thing")](f"pets/dog/{name}")
        elif place == "a name":
            shutil.copy("pets/cat/0.png", Path("pets/cat", name))
        else:
            assert ending_of_import("image-folder:pets") == "result"
            (cache,) = Path("home/image-folders").glob("*.h5")
            alter(data, cache)
        endings.add(ending_of_import("image-folder:pets"))

    one()
    assert endings == {"result", "refused"}

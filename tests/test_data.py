"""Data sets from downloads and from folders: what they hold, what they cache, and what they say when they cannot."""

import hashlib
import os
import pickle
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from co_probe.config import Config
from co_probe.data import DATA, downloads, folder
from co_probe.errors import UserError
from co_probe.runs.build import make_data

RNG = np.random.RandomState(0)
NOWHERE = "http://127.0.0.1:9/"  # nobody listens there


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """The data folder of a test."""
    monkeypatch.setenv("CO_PROBE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def pixels(height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray:
    return RNG.randint(0, 256, (height, width, channels), dtype=np.uint8)


# -- downloads -----------------------------------------------------------------------------------------------------


def fake_cifar(monkeypatch, place: Path, name: str) -> tuple[np.ndarray, list[int]]:
    """An archive like CIFAR's with six images, in `place`; torchvision's checksums are made to fit. Its test part."""
    from torchvision import datasets

    source = getattr(datasets, name)
    labels, names = ("fine_labels", "fine_label_names") if name == "CIFAR100" else ("labels", "label_names")
    parts = {
        file: {"data": RNG.randint(0, 256, (2, 3072), dtype=np.uint8), labels: [1, 0]}
        for file in ("first", "second", "test")
    }
    parts["meta"] = {names: ["cat", "dog"]}
    place.mkdir(parents=True, exist_ok=True)
    tree = place / source.base_folder
    tree.mkdir()
    sums = {}
    for file, content in parts.items():
        (tree / file).write_bytes(pickle.dumps(content))
        sums[file] = hashlib.md5((tree / file).read_bytes()).hexdigest()
    archive = place / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, source.base_folder)
    for attribute, value in {
        "url": NOWHERE + "archive.tar.gz",
        "filename": archive.name,
        "tgz_md5": hashlib.md5(archive.read_bytes()).hexdigest(),
        "train_list": [["first", sums["first"]], ["second", sums["second"]]],
        "test_list": [["test", sums["test"]]],
        "meta": {"filename": "meta", "key": names, "md5": sums["meta"]},
    }.items():
        monkeypatch.setattr(source, attribute, value)
    for file in parts:
        (tree / file).unlink()
    tree.rmdir()
    return parts["test"]["data"], parts["test"][labels]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_unpacked_checked_and_read(name, home, monkeypatch):
    test_x, test_y = fake_cifar(monkeypatch, home, name.upper())
    data = DATA.make(name)
    assert data.train_x.shape == (4, 3, 32, 32) and data.train_x.dtype == torch.uint8
    assert np.array_equal(data.test_x.numpy().reshape(2, -1), test_x)  # the file's order: channel, row, column
    assert data.test_y.tolist() == test_y and data.test_y.dtype == torch.int64
    assert data.classes == ("cat", "dog") and data.shape == (3, 32, 32)
    (home / "archive.tar.gz").unlink()
    monkeypatch.setattr(downloads, "exclusive_lock", lambda *_: pytest.fail("a shared folder may be read-only"))
    assert torch.equal(DATA.make(name).train_x, data.train_x), "unpacked once, it needs neither archive nor network"


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered after unpacking"])
def test_a_failed_download_names_the_file_and_its_folder(damage, home, monkeypatch):
    fake_cifar(monkeypatch, home, "CIFAR10")
    archive = home / "archive.tar.gz"
    if damage == "altered after unpacking":
        DATA.make("cifar10")
        (home / "cifar-10-batches-py" / "first").write_bytes(b"changed")
    if damage == "truncated":
        archive.write_bytes(archive.read_bytes()[:50])
    else:
        archive.unlink()
    with pytest.raises(UserError) as caught:
        DATA.make("cifar10")
    message = str(caught.value)
    assert "\n" not in message
    assert f"get {NOWHERE}archive.tar.gz elsewhere and put it at {archive}" in message


def test_svhn(home, monkeypatch, capsys):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    home.mkdir()
    images = RNG.randint(0, 256, (32, 32, 3, 2), dtype=np.uint8)
    files = {}
    for split in ("train", "test"):
        file = home / f"{split}.mat"
        savemat(file, {"X": images, "y": np.array([[10], [3]])})
        files[split] = [NOWHERE + file.name, file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", files)
    data = DATA.make("svhn")
    assert np.array_equal(data.train_x.numpy(), images.transpose(3, 2, 0, 1))
    assert data.train_y.tolist() == [0, 3] and data.classes[0] == "0", "SVHN writes the digit 0 as 10"
    (home / "test.mat").unlink()
    with pytest.raises(UserError, match=r"put it at .*test\.mat"):
        DATA.make("svhn")
    assert capsys.readouterr().out == "", "standard output is for tables"


def test_root_is_a_folder_that_is_there(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"data\.root .*elsewhere is no folder here"):
        DATA.make("cifar10", root=str(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere").exists()
    fake_cifar(monkeypatch, tmp_path / "mine", "CIFAR10")
    assert len(DATA.make("cifar10", root=str(tmp_path / "mine")).train_y) == 4


# -- folders -------------------------------------------------------------------------------------------------------


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.squeeze()).save(path, **options)
    return path


@pytest.fixture
def tree(tmp_path) -> Path:
    """train/ with a, b of 3 images each, test/ with 1 each; 8×8, in lossless formats."""
    root = tmp_path / "pets"
    for name in ("b", "a"):
        for number, suffix in enumerate(("png", "bmp", "tiff")):
            save(root / "train" / name / f"{number}.{suffix}", pixels())
        save(root / "test" / name / "0.png", pixels())
    return root


def load(path: Path, **settings):
    return DATA.make(f"image-folder:{path}", **settings)


def caches(home: Path) -> list[Path]:
    """Files of caches, whole or half."""
    return [p for p in home.rglob("*") if p.is_file() and not p.name.endswith(".lock")]


def test_a_folder_in_any_format(tree, home):
    (tree / "train" / ".DS_Store").write_bytes(b"x")
    (tree / "train" / "a" / ".hidden").write_bytes(b"x")
    data = load(tree)
    assert data.classes == ("a", "b")
    assert data.train_y.tolist() == [0, 0, 0, 1, 1, 1] and data.test_y.tolist() == [0, 1]
    files = [tree / "train" / c / f for c in "ab" for f in ("0.png", "1.bmp", "2.tiff")]
    expected = np.stack([np.asarray(Image.open(f)) for f in files]).transpose(0, 3, 1, 2)
    assert np.array_equal(data.train_x.numpy(), expected) and data.train_x.dtype == torch.uint8
    np.testing.assert_allclose(data.mean, expected.mean((0, 2, 3)) / 255, rtol=1e-9)
    np.testing.assert_allclose(data.std, expected.std((0, 2, 3)) / 255, rtol=1e-9)


def test_grey_and_palette_images_become_rgb(tree):
    grey = pixels(channels=1)
    save(tree / "train" / "a" / "0.png", grey)
    data = load(tree)
    assert np.array_equal(data.train_x[0].numpy(), np.repeat(grey.transpose(2, 0, 1), 3, axis=0))
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).quantize(4).save(tree / "train" / "a" / "0.png")
    assert load(tree).train_x[0].unique().tolist() == [200]


def test_decoded_once_until_a_file_changes(tree, home, monkeypatch):
    first = load(tree)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "read_pixels", lambda *_: pytest.fail("decoded again"))
        again = load(tree)
    assert torch.equal(first.train_x, again.train_x) and first.mean == again.mean
    new = pixels()
    save(tree / "train" / "a" / "0.png", new)
    assert np.array_equal(load(tree).train_x[0].numpy(), new.transpose(2, 0, 1))
    assert len(caches(home)) == 1, "the old pixels are replaced"


def test_a_damaged_cache_is_rebuilt(tree, home):
    expected = load(tree).train_x
    (cache,) = caches(home)
    cache.write_bytes(cache.read_bytes()[:-700])
    assert torch.equal(load(tree).train_x, expected)


def test_two_at_a_time_decode_once(tree, monkeypatch, capfd):
    """Threads stand for processes here: the lock is the open file's, not the process's."""
    decode, decoded, results = folder.read_pixels, [], []
    everybody = threading.Barrier(2)

    def slowly(path, size):
        decoded.append(path)
        return decode(path, size)

    def use():
        everybody.wait()
        results.append(load(tree).train_x)

    monkeypatch.setattr(folder, "read_pixels", slowly)
    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(*results)
    assert len(decoded) == 1 + 8, "each image once, and the first to learn the size"


def broken(tree: Path, case: str) -> Path:
    """Spoil `tree`; returns what the message must name."""
    if case == "unreadable":
        path = tree / "train" / "b" / "1.bmp"
        path.write_text("not an image")
        return path
    if case == "truncated":
        path = tree / "train" / "b" / "0.png"
        path.write_bytes(path.read_bytes()[:-60])
        return path
    if case == "16 bits":
        return save(tree / "train" / "b" / "1.png", np.full((8, 8), 4000, np.uint16))
    if case == "wrong size":
        return save(tree / "test" / "b" / "0.png", pixels(9, 8))
    if case == "dangling":
        path = tree / "test" / "b" / "gone.png"
        path.symlink_to(tree / "nothing.png")
        return path
    if case == "empty class":
        path = tree / "train" / "c"
        path.mkdir()
        return path
    if case == "class without test images":
        return save(tree / "train" / "c" / "0.png", pixels()).parent.relative_to(tree / "train")
    if case == "no test":
        for file in (tree / "test").rglob("*.png"):
            file.unlink()
        for name in ("test/a", "test/b", "test"):
            (tree / name).rmdir()
        return tree
    raise AssertionError(case)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("unreadable", "not a readable image"),
        ("truncated", "not a readable image"),
        ("16 bits", "8 bits"),
        ("wrong size", r"8×9 pixels, and .* is 8×8: set data\.size"),
        ("dangling", "cannot be read"),
        ("empty class", "has no images"),
        ("class without test images", "but not in"),
        ("no test", "neither test/ nor val/"),
    ],
)
def test_invalid_images_are_named_and_not_cached(tree, home, case, reason):
    culprit = broken(tree, case)
    with pytest.raises(UserError, match=reason) as caught:
        load(tree)
    assert str(culprit) in str(caught.value) and "\n" not in str(caught.value)
    assert not caches(home)


def test_an_error_leaves_the_cache_of_before(tree, home):
    load(tree)
    before = caches(home)[0].read_bytes()
    broken(tree, "unreadable")
    with pytest.raises(UserError):
        load(tree)
    assert [p.read_bytes() for p in caches(home)] == [before]


def test_size_resizes_the_shorter_side_and_cuts_out_the_centre(tree):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255  # the central square
    save(tree / "train" / "a" / "0.png", wide)
    data = load(tree, size=4)
    assert data.shape == (3, 4, 4)
    assert (data.train_x[0, :, :, 1:3] == 255).all()
    assert load(tree, size=20).shape == (3, 20, 20)


def test_without_train_the_split_is_fixed_and_a_partition(tree, home):
    data = load(tree / "train", test_share=0.5)
    again = load(tree / "train", test_share=0.5)
    assert torch.equal(data.test_x, again.test_x) and len(data.test_y) == 3 and data.classes == ("a", "b")
    whole = {x.numpy().tobytes() for x in load(tree).train_x}
    parts = [{x.numpy().tobytes() for x in part} for part in (data.train_x, data.test_x)]
    assert parts[0] | parts[1] == whole and not parts[0] & parts[1]


def test_a_relative_path_is_also_looked_for_in_the_data_folder(tree, home):
    home.mkdir()
    tree.rename(home / "pets")
    assert len(DATA.make("image-folder:pets").train_y) == 6
    with pytest.raises(UserError, match=r"dogs is not a folder, neither here nor in .*CO_PROBE_DATA"):
        DATA.make("image-folder:dogs")
    with pytest.raises(UserError, match="needs its PATH: write image-folder:PATH"):
        DATA.make("image-folder")


def test_a_run_on_a_folder_can_be_opened_and_titled(tree, tmp_path):
    import co_probe
    from co_probe.reporting.drawing import draw

    run = co_probe.train(
        "fgsm",
        out=tmp_path / "run",
        device="cpu",
        epochs=1,
        batch_size=4,
        data={"name": f"image-folder:{tree}", "title": "Pets (PNG)"},
        model={"name": "preact_resnet", "width": 4, "blocks": [1]},
        augmentation={"padding": 1, "flip": True},
    )
    assert run.data.train_x.dtype == torch.uint8 and run.test_data()[0].max() <= 1
    assert torch.isfinite(run.load_model(1)(run.test_data()[0])).all()
    torch.testing.assert_close(run.load_model(1).normalize.mean.flatten(), torch.tensor(run.data.mean))
    assert draw("gap", [run])._suptitle.get_text().startswith("Pets (PNG), ε")


@pytest.mark.parametrize(
    ("data", "title"),
    [
        ("digits", "digits"),
        ({"name": "image-folder:/some/where/pets/"}, "pets"),
        ({"name": "image-folder:pets"}, "pets"),
        ({"name": "image-folder:/x/jpeg", "title": "CIFAR-10 (JPEG)"}, "CIFAR-10 (JPEG)"),
    ],
)
def test_titles_never_show_the_way_to_a_folder(data, title):
    settings = {"method": "fgsm", "model": "preact_resnet", "epsilon": 0.1, "epochs": 1}
    assert Config.from_dict({**settings, "data": data}).data_title == title


@pytest.mark.data
def test_cifar10_as_jpeg(tmp_path, home):
    """The first 20 images of each class of the whole folder, linked, so that it takes seconds."""
    variable = "CO_PROBE_CIFAR10_JPEG"
    if not (source := os.environ.get(variable)):
        pytest.skip(f"{variable} does not name a folder of CIFAR-10 as JPEG images, with train/ and test/")
    for split in ("train", "test"):
        for place in sorted((Path(source) / split).iterdir()):
            (tmp_path / "some" / split / place.name).mkdir(parents=True)
            for image in sorted(place.iterdir())[:20]:
                (tmp_path / "some" / split / place.name / image.name).symlink_to(image.resolve())
    data = load(tmp_path / "some")
    assert data.train_x.shape == (200, 3, 32, 32) and data.train_y.bincount().tolist() == [20] * 10
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    np.testing.assert_allclose(data.mean, (0.4914, 0.4822, 0.4465), atol=0.05)  # all of CIFAR-10
    np.testing.assert_allclose(data.std, (0.2470, 0.2435, 0.2616), atol=0.05)


# -- fewer images --------------------------------------------------------------------------------------------------


def config_with(**data) -> Config:
    return Config.from_dict({"method": "fgsm", "model": "preact_resnet", "epsilon": 0.1, "epochs": 1, "data": data})


def test_a_limit_selects_training_images_and_all_test_images():
    whole, some = make_data(config_with(name="digits")), make_data(config_with(name="digits", limit=50))
    assert len(some.train_x) == len(some.train_y) == 50
    assert torch.equal(some.test_x, whole.test_x)
    assert all((whole.train_x == image).flatten(1).all(1).any() for image in some.train_x)
    assert torch.equal(make_data(config_with(name="digits", limit=20)).train_x, some.train_x[:20])
    assert len(make_data(config_with(name="digits", limit=10**6)).train_x) == len(whole.train_x)


@pytest.mark.parametrize("limit", [0, -3, 2.5, "many", True])
def test_a_limit_is_a_number_of_images(limit):
    with pytest.raises(UserError, match="limit must be a whole number of training images"):
        config_with(name="digits", limit=limit)

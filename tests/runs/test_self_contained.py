"""A run is measurable without its data set, and its models are the functions that were trained."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Normalize as Transform

import co_probe
from co_probe.config import Config
from co_probe.errors import DamagedFile, UserError
from co_probe.runs import checkpoints
from co_probe.runs.checkpoints import export, load_reference
from co_probe.store.pack import pack
from co_probe.training import loop

SIZE, CLASSES = 8, ("cross", "ring")


def network(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, classes)
    )


class Buffers(nn.Module):
    """Holds the constants in buffers that the state dict has, as co-probe's own networks do."""

    persistent = True

    def __init__(self, channels, classes, mean, std):
        super().__init__()
        self.network = network(channels, classes)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=self.persistent)

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


class NonPersistentBuffers(Buffers):
    persistent = False


class PlainAttributes(nn.Module):
    def __init__(self, channels, classes, mean, std):
        super().__init__()
        self.network = network(channels, classes)
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


def torchvision_transform(channels, classes, mean, std) -> nn.Module:
    return nn.Sequential(Transform(mean, std), network(channels, classes))


HOLDERS = [Buffers, NonPersistentBuffers, PlainAttributes, torchvision_transform]


@pytest.fixture(autouse=True)
def allowed(monkeypatch) -> None:
    """The models above under a name that can be imported and may be."""
    module = ModuleType("held_constants")
    for holder in HOLDERS:
        setattr(module, holder.__name__, holder)
    monkeypatch.setitem(sys.modules, "held_constants", module)
    monkeypatch.setenv("CO_PROBE_ALLOW", "held_constants")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> None:
    """Decoded images go into a data folder of the test's own."""
    monkeypatch.setenv("CO_PROBE_DATA", str(tmp_path / "data"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 40 + 16 dark colour images of two classes, far from having mean 0 and standard deviation 1."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "shapes" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 90, size=(SIZE, SIZE, 3)).astype(np.uint8)
                pixels[:, SIZE // 2 if label else 0] += 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "shapes"


def config_of(images: Path, model: object, **settings) -> Config:
    return tiny_config(
        "fgsm",
        data={"name": f"image-folder:{images}"},
        model=model,
        batch_size=16,
        probe={"test": 12, "train": 10},
        epochs=2,
        epsilon=0.05,
        **settings,
    )


def train(config: Config, out: Path) -> dict[int, nn.Module]:
    """Train a run and return the network that was trained, as it is in memory at the end."""
    trained, original = {}, loop.measure

    def watch(model, *rest, **options):
        trained[len(trained) + 1] = model.model
        return original(model, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "measure", watch)
        list(loop.epochs(config, out, device="cpu"))
    return trained


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_loaded_model_is_the_function_that_was_trained(holder: Callable, images: Path, tmp_path: Path):
    trained = train(config_of(images, f"held_constants:{holder.__name__}"), tmp_path / "run")
    run = co_probe.open_run(tmp_path / "run")
    x, y = run.test_data()
    with torch.no_grad():
        expected = trained[2].eval()(x)
        torch.testing.assert_close(run.load_model(2)(x), expected, rtol=0, atol=0)
        export(run, 2, tmp_path / "model.pt")
        torch.testing.assert_close(load_reference(tmp_path / "model.pt").model(x), expected, rtol=0, atol=0)
        (_, walked), *_ = run.models([2])
        torch.testing.assert_close(walked(x), expected, rtol=0, atol=0)
        assert not torch.allclose(trained[2].eval()(x * run.info.std[0]), expected, atol=1e-2)  # constants matter here
    accuracy = (expected.argmax(1) == y).float().mean().item()
    assert run.metrics(2)["clean"] == pytest.approx(accuracy)


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_given_model_replaces_the_one_named_in_the_run(holder, images, tmp_path, monkeypatch):
    trained = train(config_of(images, f"held_constants:{holder.__name__}"), tmp_path / "run")
    run = co_probe.open_run(tmp_path / "run")
    monkeypatch.delenv("CO_PROBE_ALLOW")
    monkeypatch.delitem(sys.modules, "held_constants")
    x, _ = run.test_data()
    with pytest.raises(UserError, match="held_constants"):
        run.load_model(2)
    object_of_his_own = holder(3, 2, run.info.mean, run.info.std)
    before = [parameter.clone() for parameter in object_of_his_own.parameters()]
    with torch.no_grad():
        expected = trained[2].eval()(x)
        for model in (holder, object_of_his_own):
            assert torch.equal(run.load_model(2, model=model)(x), expected)
            assert torch.equal(co_probe.open_run(tmp_path / "run", model=model).load_model(2)(x), expected)
    assert all(map(torch.equal, before, object_of_his_own.parameters()))


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_file_of_an_earlier_version_is_refused_where_its_constants_are_lost(holder, images, tmp_path):
    train(config_of(images, f"held_constants:{holder.__name__}"), tmp_path / "run")
    run, path = co_probe.open_run(tmp_path / "run"), tmp_path / "model.pt"
    export(run, 2, path)
    content = torch.load(path, weights_only=True)
    for name in ("mean", "std", "foreign", "checksum"):
        del content[name]
    content["schema"] = 1
    torch.save(content | {"checksum": checkpoints._checksum(content)}, path)
    if holder is Buffers:
        x, _ = run.test_data()
        torch.testing.assert_close(load_reference(path).model(x), run.load_model(2)(x))
    else:
        with pytest.raises(UserError, match=r"did not store the normalisation.*export the checkpoint again") as caught:
            load_reference(path)
        assert "\n" not in str(caught.value) and not isinstance(caught.value, DamagedFile)


def test_a_packed_run_is_measurable_where_its_data_set_is_not(images, tmp_path):
    train(config_of(images, {"name": "preact_resnet", "width": 8, "blocks": [1]}), tmp_path / "run")
    run = co_probe.open_run(tmp_path / "run")
    before = {split: getattr(run, f"{split}_data")() for split in ("test", "train")}
    data = run.data
    for split, (x, y) in before.items():
        index = torch.from_numpy(run.probe_set[split])
        assert torch.equal(x, getattr(data, f"{split}_x")[index] / 255)
        assert torch.equal(y, getattr(data, f"{split}_y")[index])
    export(run, 2, tmp_path / "reference.pt")
    gaps = co_probe.gap(run, "pgd5", device="cpu")
    (tmp_path / "run" / "results.h5").unlink()
    pack(run, tmp_path / "sent.h5")
    for folder in (images, tmp_path / "data", tmp_path / "run"):
        shutil.rmtree(folder)

    sent = co_probe.open_run(tmp_path / "sent.h5")
    with pytest.raises(UserError, match="is not a folder"):
        _ = sent.data
    assert sent.info == run.info and sent.info.classes == CLASSES and sent.info.shape == (3, SIZE, SIZE)
    assert sent.probe_images("test")[0].dtype == np.uint8
    for split, (x, y) in before.items():
        again = getattr(sent, f"{split}_data")()
        assert torch.equal(again[0], x) and torch.equal(again[1], y)
    values = co_probe.gap(sent, "pgd5", device="cpu")["value"]
    assert values.tolist() == gaps["value"].tolist() and len(values) == 4
    assert len(co_probe.strength(sent, tmp_path / "reference.pt", device="cpu")) >= 2
    assert len(co_probe.draw("gap", [sent]).axes) >= 1


def test_a_run_without_train_images_says_so(trained, tmp_path, monkeypatch):
    run = co_probe.open_run(trained / "fgsm")
    monkeypatch.setattr(run, "probe_images", lambda split: None)
    with pytest.raises(UserError, match="has no train images"):
        run.train_data()

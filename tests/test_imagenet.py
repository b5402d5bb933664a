"""Training in resolution stages of growing images that stay on the disk, on a tiny stand-in for ImageNet."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import co_probe
from co_probe.config import Config
from co_probe.config.presets import configure
from co_probe.data import DATA, folder
from co_probe.data.augment import random_view
from co_probe.data.dataset import to_unit
from co_probe.errors import UserError
from co_probe.inference.evaluation import batch_size
from co_probe.methods.apart import APARTSimple
from co_probe.methods.base import TrainingContext
from co_probe.methods.fgsm import FGSM
from co_probe.numerics.rng import make_rng
from co_probe.training import loop
from co_probe.training.metrics import EpochMetrics
from co_probe.training.resolution import ResolutionStages
from co_probe.training.schedules import SCHEDULES

CLASSES = ("n01", "n02", "n03")
STAGES = [{"epochs": 2, "size": 12, "crop": 8, "batch_size": 6}, {"epochs": 2, "size": 16, "crop": 12}]


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch) -> Path:
    """The data folder of these tests: one for all, so that images are decoded once."""
    path = tmp_path_factory.getbasetemp() / "imagenet-caches"
    monkeypatch.setenv("CO_PROBE_DATA", str(path))
    return path


def make_tree(root: Path) -> Path:
    """18 training images and 6 others, of odd sizes, in 3 classes."""
    rng = np.random.RandomState(0)
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = rng.randint(13, 40, 2)
                pixels = np.clip(rng.randint(0, 90, (height, width, 3)) + 80 * label, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.JPEG")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return make_tree(tmp_path_factory.mktemp("ilsvrc"))


def tiny(tree: Path, name: str = "fgsm", /, **settings) -> Config:
    """The preset at a size that takes a second."""
    return configure(
        "imagenet",
        name,
        {
            "epochs": 4,
            "resolution_stages": STAGES,
            "batch_size": 4,
            "data": {"name": f"imagenet:{tree}", "size": 16, "crop": 12},
            "model": {"name": "preact_resnet", "width": 8, "blocks": [1, 1]},
            "schedule": {"name": "linear", "at": [0, 1, 2, 4], "share": [0, 1, 0.1, 0.01]},
            "probe": {"test": 6, "train": 5},
        },
        settings,
    )


def train(config: Config, out: Path, **options) -> list[EpochMetrics]:
    return list(loop.epochs(config, out, device="cpu", **options))


# -- data ----------------------------------------------------------------------------------------------------------


def test_images_stay_on_the_disk_and_are_those_of_an_image_folder(tree):
    data = DATA.make(f"imagenet:{tree}", size=16, crop=12)
    whole = DATA.make(f"image-folder:{tree}", size=16)
    assert data.classes == CLASSES and data.shape == (3, 12, 12) and len(data.test_y) == 6
    assert torch.equal(data.train_x, whole.train_x[:, :, 2:14, 2:14])
    assert torch.equal(data.test_x, whole.test_x[:, :, 2:14, 2:14])
    assert data.train_at is not None and torch.equal(data.train_at(16), whole.train_x)
    small = DATA.make(f"image-folder:{tree}", size=12)
    assert torch.equal(data.train_at(12), small.train_x)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert f"{tree.name}-" in maps.read_text(), "the cache is mapped, not read"


def test_decoded_once_for_each_size(tree, monkeypatch):
    data = DATA.make(f"imagenet:{tree}", size=16, crop=12)
    data.train_at(12)
    monkeypatch.setattr(folder, "read_pixels", lambda *_: pytest.fail("decoded again"))
    again = DATA.make(f"imagenet:{tree}", size=16, crop=8)
    assert torch.equal(again.train_at(12), data.train_at(12)) and again.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("no folder", "is not a folder"),
        ("no train", "has no train/"),
        ("no val", "neither test/ nor val/"),
        ("flat val", "each class needs one"),
        ("empty class", "class .*n02 has no images"),
        ("unreadable", r"n03/1\.JPEG is not a readable image"),
    ],
)
def test_errors_are_reported_in_one_line(tmp_path, home, case, reason):
    root = make_tree(tmp_path / "spoilt")
    if case == "no folder":
        root = tmp_path / "nowhere"
    elif case == "no train":
        (root / "train").rename(root / "training")
    elif case == "no val":
        (root / "val").rename(root / "validation")
    elif case == "flat val":
        (root / "val").rename(tmp_path / "val")
        (root / "val").mkdir()
    elif case == "empty class":
        for file in (root / "train" / "n02").iterdir():
            file.unlink()
    else:
        (root / "train" / "n03" / "1.JPEG").write_bytes(b"no image")
    with pytest.raises(UserError, match=reason) as caught:
        DATA.make(f"imagenet:{root}", size=16, crop=12)
    assert "\n" not in str(caught.value)
    assert not list(home.rglob("spoilt-*")), "nothing is cached"


@pytest.mark.parametrize("settings", [{"size": 16, "crop": 17}, {"size": 16, "crop": 11}, {"size": 16, "crop": 0}])
def test_crops_must_fit(tree, settings):
    with pytest.raises(UserError, match=r"crop .* must be size 16 or less, by an even number"):
        DATA.make(f"imagenet:{tree}", **settings)


def test_a_view_is_the_same_for_stores_on_both_devices():
    """The part that moves a batch's own images, without a second device: the fake says that it is one."""

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

        def __getitem__(self, index):
            return self.as_subclass(torch.Tensor)[index.as_subclass(torch.Tensor)]

    store = torch.arange(5 * 3 * 6 * 6, dtype=torch.uint8).reshape(5, 3, 6, 6)
    view = random_view(torch.tensor([4, 0, 2]), (4, 4), 1, True, make_rng("cpu", 0, "view"))
    moved, to = [], torch.Tensor.to
    fake = store.as_subclass(Elsewhere)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda x, where: x if moved.append(len(x)) is None else to(x, where))
        assert torch.equal(view.take(fake), view.take(store))
    assert moved == [3, 3], "the numbers of three images went there, and three images came back"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_in_stages_on_a_gpu(tree, tmp_path):
    config = tiny(tree, "apart", method={"learn_initialisation": True})
    metrics = list(loop.epochs(config, tmp_path / "run", device="cuda"))
    assert len(metrics) == 4 and co_probe.open_run(tmp_path / "run").image_state(4).shape == (5, 3, 12, 12)


# -- stages --------------------------------------------------------------------------------------------------------


def seen_by(method: type, monkeypatch) -> list[tuple[int, ...]]:
    """Filled with the shape of each batch that `method` is trained on."""
    shapes: list[tuple[int, ...]] = []
    original = method.step

    def step(self, model, batch):
        shapes.append(tuple(batch.x.shape))
        return original(self, model, batch)

    monkeypatch.setattr(method, "step", step)
    return shapes


def test_each_phase_has_its_size_and_batches_and_the_learning_rate_runs_through(tree, tmp_path, monkeypatch):
    shapes, rates = seen_by(FGSM, monkeypatch), []
    original = loop.train_step

    def step(model, method, optimizer, batch, *rest):
        rates.append(batch.lr_scale)
        return original(model, method, optimizer, batch, *rest)

    monkeypatch.setattr(loop, "train_step", step)
    train(tiny(tree), tmp_path / "run")
    assert shapes[:6] == [(6, 3, 8, 8)] * 6, "two epochs of three batches of six"
    assert shapes[6:] == ([(4, 3, 12, 12)] * 4 + [(2, 3, 12, 12)]) * 2
    in_epochs = [i / 3 for i in range(6)] + [2 + i / 5 for i in range(10)]
    assert rates == pytest.approx(np.interp(in_epochs, [0, 1, 2, 4], [0, 1, 0.1, 0.01]))
    run = co_probe.open_run(tmp_path / "run")
    assert run.test_data()[0].shape == (6, 3, 12, 12) and run.train_data()[0].shape == (5, 3, 12, 12)
    assert len(co_probe.gap(run, split="train", device="cpu")) == 2 * 4


def test_a_crop_is_a_square_of_the_stored_image(tree):
    config = tiny(tree)
    data = DATA.make(config.data.name, size=16, crop=12)
    plan = ResolutionStages(config, data, 4, 1, torch.device("cpu"))
    phase = plan.stage(1)
    view = random_view(torch.tensor([7, 3]), phase.shape[1:], phase.padding, True, make_rng("cpu", 0, "crops"))
    crops = view.take(phase.images)
    for crop, index in zip(crops, (7, 3), strict=True):
        squares = phase.images[index].unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert ((squares == crop) | (squares == crop.flip(2))).flatten(1).all(1).any()
    assert to_unit(crops).max() <= 1 and plan.stage(1) is plan.stage(2) is not plan.stage(3)


@pytest.mark.parametrize("method", ["apart", "atta", "free"])
def test_a_run_is_resumed_bit_for_bit_between_stages_and_within_one(method, tree, tmp_path):
    settings = {"apart": {"learn_initialisation": True}, "free": {"replays": 2}, "atta": {"reset": 3}}.get(method, {})
    budget = {"epochs": 8, "resolution_stages": [p | {"epochs": 4} for p in STAGES]} if method == "free" else {}
    config = tiny(tree, method, method=settings, **budget)
    whole = train(config, tmp_path / "whole")
    for stop in (2, 3):
        out = tmp_path / f"stopped-{stop}"
        for metrics in loop.epochs(config, out, device="cpu"):
            if metrics.epoch == stop:
                break
        train(config, out, resume=True)
        expected, got = (co_probe.open_run(path) for path in (tmp_path / "whole", out))
        assert got.epochs == expected.epochs == [1, 2, 3, 4]
        weights = got.weights(4)
        assert all(np.array_equal(value, weights[name]) for name, value in expected.weights(4).items())
        assert got.metrics(4)["train_loss"] == whole[-1].train_loss
        assert got.method_parameters(4) == expected.method_parameters(4)


def test_omega_is_reset_in_each_stage_and_step_sizes_are_not(tree, tmp_path, monkeypatch):
    stores, alphas = [], []
    original = APARTSimple.start_stage

    def start_stage(self, task):
        alphas.append(self.alpha.detach().clone())
        original(self, task)
        stores.append((tuple(self.omega.shape), self.omega.abs().max().item()))

    monkeypatch.setattr(APARTSimple, "start_stage", start_stage)
    train(tiny(tree, "apart", method={"learn_initialisation": True, "raw_rate": 1e-7}), tmp_path / "run")
    assert [shape for shape, _ in stores] == [(18, 3, 12, 12), (18, 3, 16, 16)]
    assert all(0 < largest < 0.01 for _, largest in stores)
    run = co_probe.open_run(tmp_path / "run")
    alpha = run.method_parameters(2)["alpha"]
    assert alphas[1][:2].tolist() == [alpha["omega"], alpha["input"]] != alphas[0][:2].tolist()
    # Kept with an epoch where it belongs to the pixels that diagnostics see.
    assert run.image_state(2) is None and run.image_state(4).shape == (5, 3, 12, 12)


def test_runs_that_exceed_the_memory_are_refused_before_anything_is_written(tree, tmp_path, monkeypatch):
    rng = torch.Generator()
    task = TrainingContext(1281167, (3, 128, 128), 16, 1, 0.01, torch.device("cpu"), rng, largest=1281167 * 3 * 384**2)
    with pytest.raises(ValueError, match=r"1281167 images takes 2267 GB.*method\.learn_initialisation=false"):
        task.new_store()
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    for method in ("apart", "atta"):
        settings = {"learn_initialisation": True} if method == "apart" else {}
        with pytest.raises(UserError, match=f"method {method}: its state of .* takes 0 GB"):
            train(tiny(tree, method, method=settings), tmp_path / method)
        assert not (tmp_path / method).exists()
    train(tiny(tree, "apart", epochs=1, resolution_stages=[STAGES[0] | {"epochs": 1}]), tmp_path / "without")


def test_replays_count_as_passes(tree):
    config = configure("imagenet", "free")
    data = DATA.make(f"imagenet:{tree}", size=16, crop=12)
    asked = []
    data = type(data)(**{**vars(data), "train_at": lambda size: asked.append(size) or torch.zeros(18, 3, size, 1)})
    plan = ResolutionStages(config, data, 2, 8, torch.device("cpu"))
    assert [plan.stage(epoch).shape[1] for epoch in (1, 2)] == [128, 224]
    assert asked == [160, 352], "what is passed over is not decoded"
    assert plan._context(2, torch.Generator()).steps == 16  # 18 images are one batch in both


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"epochs": 5}, "resolution_stages have 4 epochs together, and epochs is 5"),
        ({"resolution_stages": [{"epochs": 4, "size": 8}]}, "resolution_stages: crop is missing"),
        ({"resolution_stages": [{"epochs": 4, "size": 8, "crop": 9}]}, "crop 9 must be size 8 or less"),
        ({"resolution_stages": [{"epochs": 4, "size": 8, "crop": 5}]}, "by an even number"),
        (
            {"resolution_stages": [{"epochs": 4, "size": 8, "crop": 8, "batch_size": 0}]},
            "batch_size must be greater than 0",
        ),
        ({"resolution_stages": [{"epochs": 4, "size": 8, "crop": 8, "bach": 1}]}, "did you mean batch_size"),
        ({"resolution_stages": [{"epochs": 4, "size": "8", "crop": 8}]}, "must be a whole number"),
        ({"resolution_stages": {"epochs": 4}}, "resolution_stages is a list of tables"),
        ({"augmentation": {"padding": 4}}, "padding must be 0"),
        ({"resolution_stages": []}, "is trained on in resolution stages"),
        ({"data": {"name": "digits"}}, "digits has images of one size"),
    ],
)
def test_stages_that_cannot_be_used(tree, tmp_path, settings, reason):
    with pytest.raises(UserError, match=reason) as caught:
        train(tiny(tree, **settings), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


# -- preset --------------------------------------------------------------------------------------------------------


def test_the_preset_is_the_papers_and_survives_being_written_down():
    config = configure("imagenet", "apart")
    assert (config.epochs, config.optimizer.learning_rate, config.epsilon) == (15, 0.4, 2 / 255)
    assert [(p.epochs, p.size, p.crop, p.batch_size) for p in config.resolution_stages] == [
        (6, 160, 128, 512),
        (6, 352, 224, 224),
        (3, 384, 288, 128),
    ]
    assert config.method.settings == {"raw_penalty": 5000, "raw_rate": 4e-9, "learn_initialisation": False}
    assert Config.from_dict(config.to_dict()) == config and config.data_title == "ImageNet"
    schedule = SCHEDULES.make(config.schedule.name, **config.schedule.settings)
    rates = [0.4 * schedule(epoch / 15) for epoch in (0, 0.5, 1, 6, 12, 15)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.04, 0.004, 0.0004])


def test_the_former_name_of_resolution_stages_is_read(tmp_path):
    config = configure("imagenet", "fgsm")
    plain = config.to_dict()
    plain["phases"] = plain.pop("resolution_stages")
    assert Config.from_dict(plain) == config, "as old runs have it"
    stage = "epochs = 15\nsize = 64\ncrop = 32\n"
    (tmp_path / "mine.toml").write_text(f'extends = "imagenet"\n[[phases]]\n{stage}')
    (only,) = configure(str(tmp_path / "mine.toml"), "fgsm").resolution_stages
    assert (only.size, only.crop) == (64, 32), "in place of those of the preset that it extends"
    over = configure("imagenet", "fgsm", {"phases": [{"epochs": 15, "size": 96, "crop": 64}]})
    assert [stage.size for stage in over.resolution_stages] == [96]
    with pytest.raises(UserError, match="phases is the former name of resolution_stages: set one of them"):
        configure("imagenet", "fgsm", {"phases": [], "resolution_stages": []})


@pytest.mark.parametrize(
    "settings", [{"at": [0, 1], "share": [1]}, {"at": [1, 2], "share": [0, 1]}, {"at": [0, 2, 1], "share": [0, 1, 0]}]
)
def test_a_linear_schedule_rises_in_time(settings):
    with pytest.raises(UserError, match="at must rise from 0"):
        SCHEDULES.make("linear", **settings)


def test_large_images_are_evaluated_in_smaller_batches():
    assert [batch_size(torch.empty(0, 3, side, side)) for side in (8, 32, 64, 288)] == [125, 125, 125, 6]
    assert batch_size(torch.empty(0, 3, 4096, 4096)) == 1

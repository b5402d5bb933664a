"""Carriers in images, and the low-pass: the interventions of arXiv 2206.08242."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import tiny_config
from scipy.fft import dctn, idctn

import co_probe
from co_probe.attacks import PGD
from co_probe.config.settings import Config
from co_probe.data.dataset import Dataset, to_unit
from co_probe.errors import UserError
from co_probe.methods.block_inputs import find_blocks
from co_probe.numerics.dct import dct2, idct2, zigzag
from co_probe.runs.build import make_data, make_model, new_model
from co_probe.runs.checkpoints import export, load_reference
from co_probe.studies.injection.carriers import make_carriers, remove_span
from co_probe.studies.injection.low_pass import LowPass
from co_probe.studies.injection.settings import Inject
from co_probe.studies.injection.settings import LowPass as LowPassSettings
from co_probe.training.loop import epochs

PAIRS = [(0, 1), (1, 0), (1, 1), (2, 1), (1, 2)]


def wave(at: tuple[int, int], height: int, width: int) -> np.ndarray:
    spectrum = np.zeros((height, width))
    spectrum[at] = 1
    return idctn(spectrum, norm="ortho")


def data(classes: int = 10, size: int = 8, channels: int = 3, kind=torch.uint8) -> Dataset:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (6 * classes, channels, size, size), generator=rng).to(kind)
    x = x if kind == torch.uint8 else x / 255
    y = torch.arange(6 * classes) % classes
    names = tuple(map(str, range(classes)))
    return Dataset(x, y, x[: 2 * classes], y[: 2 * classes], names, (0.5,) * channels, (0.2,) * channels)


# -- the transform ---------------------------------------------------------------------------------------------------


def test_the_transform_is_scipys_and_its_inverse_undoes_it():
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    np.testing.assert_allclose(dct2(x).numpy(), dctn(x.numpy(), axes=(2, 3), norm="ortho"), atol=1e-12)
    torch.testing.assert_close(idct2(dct2(x)), x)


def test_zigzag_is_that_of_jpeg():
    order = zigzag(8, 8)
    assert order[:11] == [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0), (4, 0)]
    assert len(set(order)) == 64
    assert all(max(abs(a - c), abs(b - d)) == 1 for (a, b), (c, d) in pairwise(order))


# -- carriers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 24)])
def test_ten_carriers_are_signs_of_five_waves_and_their_negatives(shape):
    carriers = make_carriers(10, shape)
    assert carriers.shape == (10, *shape) and carriers.dtype == torch.float32
    for number, at in enumerate(PAIRS):
        for channel in carriers[number]:
            np.testing.assert_array_equal(channel.numpy(), np.sign(wave(at, *shape[1:])))
        torch.testing.assert_close(carriers[number + 5], -carriers[number])


def test_more_classes_walk_the_frequencies_in_zigzag_order():
    carriers = make_carriers(100, (3, 32, 32))
    for number, at in enumerate(zigzag(32, 32)[1:101]):
        np.testing.assert_array_equal(carriers[number, 0].numpy(), np.sign(wave(at, 32, 32)))
    assert len(torch.unique(carriers.flatten(1), dim=0)) == 100
    assert torch.equal(make_carriers(2, (1, 4, 4)), make_carriers(10, (1, 4, 4))[:2])


def test_a_carrier_is_0_where_its_wave_is():
    assert make_carriers(1, (1, 3, 9))[0, 0, 0].tolist() == [1, 1, 1, 1, 0, -1, -1, -1, -1]


@pytest.mark.parametrize(("classes", "shape"), [(17, (1, 4, 4)), (10, (1, 2, 2)), (7, (3, 2, 2))])
def test_more_classes_than_carriers_are_refused(classes, shape):
    with pytest.raises(UserError, match=f"{classes} classes need as many carriers, and .* pixels have"):
        make_carriers(classes, shape)


def test_the_projection_is_the_residual_of_least_squares():
    carriers = make_carriers(10, (2, 9, 8))
    x = torch.rand(7, 2, 9, 8)
    a, b = carriers.flatten(1).T.double().numpy(), x.flatten(1).T.double().numpy()
    residual = b - a @ np.linalg.lstsq(a, b, rcond=1e-9)[0]
    np.testing.assert_allclose(remove_span(x, carriers).flatten(1).numpy(), residual.T, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_images_get_the_carrier_of_their_class(kind):
    plain = data(kind=kind)
    before = plain.train_x.clone()
    made = Inject(beta=0.1).transform(plain)
    v = make_carriers(10, plain.shape)
    for x, y, original in ((made.train_x, made.train_y, plain.train_x), (made.test_x, made.test_y, plain.test_x)):
        torch.testing.assert_close(x - to_unit(original), 0.1 * v[y], atol=1e-6, rtol=0)
    assert torch.equal(plain.train_x, before) and made.bounds == (0.0, 1.0)
    assert made.train_x.min() < 0 and made.train_x.max() > 1  # not clipped: `clip` is about perturbed images


def test_into_reversed_and_unclipped():
    plain, v = data(), make_carriers(10, (3, 8, 8))
    for into, of_train, of_test in (("train", 1, 0), ("test", 0, 1), ("both", 1, 1)):
        made = Inject(beta=0.1, into=into, clip=False).transform(plain)
        assert made.bounds == (-torch.inf, torch.inf)
        train, test = to_unit(made.train_x) - to_unit(plain.train_x), to_unit(made.test_x) - to_unit(plain.test_x)
        torch.testing.assert_close(train, of_train * 0.1 * v[made.train_y], atol=1e-6, rtol=0)
        torch.testing.assert_close(test, of_test * 0.1 * v[made.test_y], atol=1e-6, rtol=0)
    made = Inject(beta=0.1, reversed=True).transform(plain)
    torch.testing.assert_close(made.test_x, to_unit(plain.test_x) - 0.1 * v[made.test_y], atol=1e-6, rtol=0)
    torch.testing.assert_close(made.train_x, to_unit(plain.train_x) + 0.1 * v[made.train_y], atol=1e-6, rtol=0)


def test_orthogonal_images_contain_only_the_added_carrier():
    v = make_carriers(10, (3, 8, 8)).flatten(1)
    made = Inject(beta=0.1, orthogonal=True).transform(data())
    expected = 0.1 * v[made.test_y] @ v.T
    torch.testing.assert_close(made.test_x.flatten(1) @ v.T, expected, atol=1e-3, rtol=0)


def test_without_beta_images_are_not_changed():
    plain = data()
    assert Inject().transform(plain) is plain
    assert Inject(clip=False).transform(plain).train_x is plain.train_x


def test_images_read_from_the_disk_are_refused():
    with pytest.raises(UserError, match="read from the disk"):
        Inject(beta=0.1).transform(replace(data(), train_at=lambda size: torch.zeros(1)))


# -- runs ------------------------------------------------------------------------------------------------------------


def test_crops_and_flips_are_left_out_unless_they_are_asked_for():
    assert tiny_config("fgsm").augmentation.padding == 1
    assert tiny_config("fgsm", inject={"beta": "8/255"}).augmentation.padding == 0
    assert tiny_config("fgsm", inject={"beta": 0}).augmentation.padding == 0  # what β > 0 is compared with
    assert tiny_config("fgsm", inject={"clip": False}).augmentation.padding == 1
    asked = tiny_config("fgsm", inject={"beta": 0.1}, augmentation={"padding": 2})
    assert asked.augmentation.padding == 2
    with pytest.raises(UserError, match="flip must be false"):
        tiny_config("fgsm", inject={"beta": 0.1}, augmentation={"flip": True})


def test_settings_without_the_section_inject_can_be_loaded():
    stored = tiny_config("fgsm").to_dict()
    assert "inject" not in stored and "low_pass" not in stored
    config = Config.from_dict(stored)
    assert config.extension(Inject) == Inject() and config.wrappers == {} and config.caption == ""
    injected = tiny_config("fgsm", inject={"beta": 0.1, "into": "test"}, low_pass=3)
    assert Config.from_dict(injected.to_dict()) == injected and injected.caption == ", β = 0.1"
    assert injected.to_dict()["low_pass"] == 3


def test_settings_of_the_first_version_load():
    """It stored both in every run, most of them without any effect."""
    plain = tiny_config("fgsm")
    off = {"beta": 0.0, "orthogonal": False, "into": "both", "reversed": False, "clip": True}
    assert Config.from_dict(plain.to_dict() | {"inject": off, "low_pass": 0}) == plain
    config = Config.from_dict(plain.to_dict() | {"inject": off | {"beta": 0.1}, "low_pass": 4})
    assert config.extension(Inject).beta == 0.1 and config.extension(LowPassSettings).width == 4
    assert Config.from_dict(plain.to_dict() | {"low_pass": {"width": 4}}).wrappers == config.wrappers


@pytest.fixture(scope="module")
def injected(tmp_path_factory):
    """A run of APART with carriers, unclipped, behind a low-pass, that was interrupted after its first epoch."""
    path = tmp_path_factory.mktemp("injected") / "apart"
    config = tiny_config("apart", inject={"beta": 0.2, "clip": False}, low_pass=5)
    next(epochs(config, path, device="cpu"))
    list(epochs(config, path, device="cpu", resume=True))
    return co_probe.open_run(path)


def test_a_run_with_carriers_and_low_pass_resumes_to_the_same_bits(injected, tmp_path):
    whole = co_probe.train("apart", out=tmp_path / "whole", device="cpu", resume=True, **_given(injected))
    ours, theirs = injected.weights(3), whole.weights(3)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours) and "network.conv1.weight" in ours
    assert whole.config == injected.config


def _given(run) -> dict:
    given = run.config.to_dict()
    return {key: value for key, value in given.items() if key not in ("method", "preset")}


def test_an_injected_run_is_opened_with_its_images_and_bounds(injected):
    x, y = injected.test_data()
    plain = make_data(tiny_config("fgsm")).test_x[injected.probe_set["test"]]
    torch.testing.assert_close(x, plain + 0.2 * make_carriers(10, (1, 8, 8))[y])
    model = injected.load_model(3)
    assert injected.info.bounds == (-torch.inf, torch.inf)
    delta = PGD(epsilon=0.14, bounds=injected.info.bounds)(model, x, y)
    assert delta.abs().max() <= 0.14 + 1e-6 and (x + delta).min() < -0.2  # beyond where the carrier led


def test_blocks_export_strength_and_eval_work_behind_a_low_pass(injected, tmp_path):
    assert next(iter(find_blocks(injected.load_model(1)))) == "network.layer1.0.conv1"
    assert "network.layer1.0.conv1" in set(injected.frame("steps")["layer"])
    export(injected, 3, tmp_path / "r.pt")
    reference, own = load_reference(tmp_path / "r.pt"), injected.load_model(3)
    x, _ = injected.test_data()
    assert torch.equal(reference.model(x), own(x)) and reference.bounds == injected.info.bounds
    frame = co_probe.strength(injected, tmp_path / "r.pt", device="cpu")
    assert set(frame["epoch"]) == {0, 1, 2, 3}
    frame = co_probe.evaluate(injected, ["clean", "pgd2x2"], images=20, device="cpu")
    assert set(frame["attack"]) == {"clean", "pgd2x2", ""}


# -- low-pass --------------------------------------------------------------------------------------------------------


def test_a_low_pass_passes_only_the_lowest_frequencies():
    x = torch.rand(2, 3, 6, 8, dtype=torch.float64)
    kept = dctn(LowPass(torch.nn.Identity(), 4)(x).numpy(), axes=(2, 3), norm="ortho")
    expected = dctn(x.numpy(), axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(kept[:, :, :4, :4], expected[:, :, :4, :4], atol=1e-12)
    kept[:, :, :4, :4] = 0
    np.testing.assert_allclose(kept, 0, atol=1e-12)


def test_attacks_see_the_low_pass():
    config = tiny_config("fgsm", low_pass=3)
    torch.manual_seed(0)
    model, x = make_model(config, make_data(config)).eval(), torch.rand(4, 1, 8, 8, requires_grad=True)
    model(x)[:, 0].sum().backward()
    gradient = dct2(x.grad)
    assert gradient[..., :3, :3].abs().max() > 1e-4
    gradient[..., :3, :3] = 0
    assert gradient.abs().max() < 1e-6


def test_a_low_pass_that_cannot_be_is_refused():
    config = tiny_config("fgsm", low_pass=9)
    with pytest.raises(UserError, match="low_pass must be at most 8, the size of images, not 9"):
        make_model(config, make_data(config))
    with pytest.raises(UserError, match="low_pass must not be negative"):
        tiny_config("fgsm", low_pass=-1)


class Filtered(LowPass):
    def __init__(self, channels, classes, mean, std):
        super().__init__(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * channels, classes)), 2)


def test_a_second_low_pass_is_refused():
    from co_probe import allow

    name = f"{__name__}:Filtered"
    allow(name)
    made = new_model(name, {}, (1, 8, 8), 10, [0.0], [1.0])
    assert made(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(UserError, match="has a low-pass already"):
        new_model(name, {}, (1, 8, 8), 10, [0.0], [1.0], wrappers=[LowPassSettings(width=4)])


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -0.1}, "from 0 to 1, not -0.1"),
        ({"beta": 8}, "did you mean 8/255"),
        ({"beta": "nan"}, "from 0 to 1, not nan"),
        ({"into": "all"}, "train, test or both, not 'all'"),
        ({"beta": 0.1, "into": "train", "reversed": True}, "about test images"),
        ({"bta": 0.1}, "did you mean beta"),
        ({"clip": "maybe"}, "inject.clip must be true or false"),
    ],
)
def test_invalid_injections_are_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as error:
        tiny_config("fgsm", inject=settings)
    assert "\n" not in str(error.value)

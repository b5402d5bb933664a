"""Optimizers and schedules: PyTorch's numbers, bit for bit through a resume; and runs that start from other runs."""

import shutil
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import TINY, tiny_config
from made_files import put

import co_probe
from co_probe.config.optimizers import OPTIMIZERS, AdamW
from co_probe.errors import DamagedFile, UserError
from co_probe.store import StoredRun
from co_probe.training.loop import epochs
from co_probe.training.schedules import SCHEDULES

SMALL = {"batch_size": 100, "data": {"size": 8, "limit": 200}, "probe": {"test": 20, "train": 20}}
STEPS = 200


def torch_rates(make) -> list[float]:
    """The learning rates that a scheduler of PyTorch gives to `STEPS` steps, from a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def warm_cosine(optimizer):
    lr = torch.optim.lr_scheduler
    # LinearLR takes no factor of 0.
    rising = lr.LambdaLR(optimizer, lambda step: step / 20)
    return lr.SequentialLR(optimizer, [rising, lr.CosineAnnealingLR(optimizer, STEPS - 20, eta_min=0.01)], [20])


LR = torch.optim.lr_scheduler
SAME_AS_TORCH = {
    "piecewise": ({}, lambda o: LR.MultiStepLR(o, [STEPS // 2, STEPS * 3 // 4], gamma=0.1)),
    "cosine": ({}, lambda o: LR.CosineAnnealingLR(o, STEPS)),
    "cosine with warm-up": ({"warmup": 0.1, "end": 0.01}, warm_cosine),
    "triangular": ({}, lambda o: LR.CyclicLR(o, 0, 1, step_size_up=STEPS // 2, cycle_momentum=False)),
}


@pytest.mark.parametrize("name", SAME_AS_TORCH)
def test_schedules_are_those_of_pytorch(name):
    settings, make = SAME_AS_TORCH[name]
    schedule = SCHEDULES.make(name.partition(" ")[0], **settings)
    assert [schedule(step / STEPS) for step in range(STEPS)] == pytest.approx(torch_rates(make), abs=1e-9)


def test_one_cycle_is_that_of_pytorch():
    schedule = SCHEDULES.make("one-cycle")
    # PyTorch lets the last step, and not the end of the last step, have the lowest rate: its peak is a step earlier.
    lr = torch_rates(lambda o: LR.OneCycleLR(o, 1.0, total_steps=STEPS, cycle_momentum=False))
    ours = [schedule(step / STEPS) for step in range(STEPS)]
    assert ours == pytest.approx(lr, abs=0.03)  # a step changes the rate by 0.026 at most
    assert ours[0] == pytest.approx(1 / 25) and max(ours) == 1 and schedule(1.0) == pytest.approx(1 / 25 / 1e4)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("cosine", {"warmup": 1.0}, "warmup must be at least 0 and less than 1, not 1"),
        ("cosine", {"end": -0.1}, "end must be at least 0"),
        ("one-cycle", {"peak": 0.0}, "peak must be between 0 and 1"),
        ("one-cycle", {"div_factor": 0.5}, "div_factor must be at least 1"),
    ],
)
def test_schedules_out_of_range(name, settings, words):
    with pytest.raises(UserError, match=words):
        SCHEDULES.make(name, **settings)


ADAMW = {"name": "adamw", "learning_rate": 2e-3, "beta2": 0.99}
KINDS = {
    "adamw": {"optimizer": ADAMW, "schedule": "one-cycle"},
    "nesterov": {"optimizer": {"nesterov": True}, "schedule": {"name": "cosine", "warmup": 0.2}},
    "no momentum": {"optimizer": {"momentum": 0.0}},
}


def test_adamw_takes_pytorchs_steps(tmp_path):
    """A whole run is that of a loop with PyTorch's AdamW and one learning rate per step."""
    from co_probe.data.augment import pad_images, random_view
    from co_probe.numerics.rng import derive_seed, make_rng
    from co_probe.runs.build import make_data, make_model

    config = tiny_config("standard", epochs=2, augmentation={"padding": 0}, **SMALL, **KINDS["adamw"])
    list(epochs(config, tmp_path / "run", device="cpu"))
    data = make_data(config)
    torch.manual_seed(derive_seed(0, "initial weights"))
    model = make_model(config, data).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-2)
    images, schedule, step = pad_images(data.train_x, 0), SCHEDULES.make("one-cycle"), 0
    for epoch in (1, 2):
        rng = make_rng("cpu", 0, "epoch", epoch)
        batches = torch.randperm(len(images), generator=rng).split(100)
        for index in batches:
            view = random_view(index, data.shape[1:], 0, False, rng)
            optimizer.param_groups[0]["lr"] = 2e-3 * schedule(step / (2 * len(batches)))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(view.take(images)), data.train_y[index]).backward()
            optimizer.step()
            step += 1
    stored = StoredRun(tmp_path / "run").weights(2)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(stored[name], value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> dict[str, Path]:
    """Runs of `KINDS` after their first epoch of two: read them, do not write to them."""
    folder, runs = tmp_path_factory.mktemp("begun"), {}
    for name, settings in KINDS.items():
        training = epochs(tiny_config("fgsm", epochs=2, **SMALL, **settings), folder / name, device="cpu")
        list(islice(training, 1))
        training.close()
        runs[name] = folder / name
    return runs


@pytest.mark.parametrize("name", KINDS)
def test_resumes_bit_for_bit(name, begun, tmp_path):
    config = tiny_config("fgsm", epochs=2, **SMALL, **KINDS[name])
    run, whole = Path(shutil.copytree(begun[name], tmp_path / "run")), tmp_path / "whole"
    list(epochs(config, run, device="cpu", resume=True))
    list(epochs(config, whole, device="cpu"))
    for key, value in StoredRun(whole).weights(2).items():
        np.testing.assert_array_equal(StoredRun(run).weights(2)[key], value)


WRONG = {
    "no squares": ("exp_avg_sq", None, "no exp_avg_sq of"),
    "a mean of another shape": (
        "exp_avg/linear.weight",
        np.zeros(3, np.float32),
        "the exp_avg of linear.weight is not",
    ),
    "a step of another type": ("step/linear.bias", np.array(3), "the step of linear.bias is not torch.float32 of"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_another_state_of_adamw_is_refused(kind, begun, tmp_path):
    path, value, words = WRONG[kind]
    run = Path(shutil.copytree(begun["adamw"], tmp_path / "run"))
    with h5py.File(run / "resume-0001.h5", "r+") as file:
        put(file, path, value)
    with pytest.raises(DamagedFile, match=words):
        list(epochs(tiny_config("fgsm", epochs=2, **SMALL, **KINDS["adamw"]), run, device="cpu", resume=True))


def test_settings_without_an_optimizer_name_are_those_of_sgd(trained):
    stored = StoredRun(trained / "fgsm").config.to_dict()
    assert stored["optimizer"].pop("name") == "sgd"  # as runs of earlier versions have it
    assert type(StoredRun(trained / "fgsm").config).from_dict(stored) == StoredRun(trained / "fgsm").config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "adam"}, "unknown optimizer 'adam': did you mean adamw"),
        ({"name": "torch.optim:RAdam"}, "unknown optimizer"),
        ({"name": ["adamw"]}, "unknown optimizer"),
        ({"name": "adamw", "momentum": 0.9}, "unknown setting in optimizer 'momentum'"),
        ({"name": "adamw", "beta1": 1.0}, "optimizer.beta1 must be less than 1"),
        ({"nesterov": True, "momentum": 0}, "nesterov needs a momentum"),
        ({"name": "adamw", "eps": -1}, "optimizer.eps must not be negative"),
    ],
)
def test_optimizers_that_cannot_be(settings, words):
    with pytest.raises(UserError, match=words):
        tiny_config("fgsm", optimizer=settings)


def test_another_optimizer_starts_from_its_own_defaults():
    """The preset's learning rate is for SGD."""
    assert tiny_config("fgsm", optimizer="adamw").optimizer == AdamW()
    assert set(OPTIMIZERS) == {"adamw", "sgd"}


def test_a_run_starts_from_another(trained, tmp_path):
    settings = {**TINY, **SMALL, "epochs": 1, "optimizer": {"learning_rate": 0.0}, "device": "cpu"}
    run = co_probe.train("pgd", out=tmp_path / "run", init_from=f"{trained / 'fgsm'}@2", **settings)
    source, here = StoredRun(trained / "fgsm").weights(2), run.weights(1)
    learned = [name for name in source if name.endswith(("weight", "bias"))]
    assert learned and all(np.array_equal(source[name], here[name]) for name in learned)
    assert any(not np.array_equal(source[name], here[name]) for name in source)  # statistics of BatchNorm move


def test_a_start_is_stored_by_its_number(trained, tmp_path, call):
    start, out = f"{trained / 'fgsm'}@last", tmp_path / "run"
    small = ["--set", "model.width=8", "--set", "data.size=8", "--set", "probe.test=20", "--set", "data.limit=100"]
    code, _, err = call("run", "fgsm", "--epochs", "1", "--out", out, "--init-from", start, *small)
    assert code == 0, err
    assert StoredRun(out).config.init_from == f"{trained / 'fgsm'}@3"


@pytest.mark.parametrize(
    ("start", "settings", "words"),
    [
        ("fgsm@9", {}, "init_from: fgsm has no epoch 9; its last is 3"),
        ("fgsm", {}, "init_from must be RUN@EPOCH"),
        ("nothing@1", {}, "is not a run"),
        ("fgsm@1", {"model": {"width": 16}}, "the network of fgsm is preact_resnet width=8 .* set the same model"),
        ("fgsm@1", {"data": {"size": 16}}, r"images of shape \(1, 8, 8\) in 10 classes, and the new run"),
    ],
)
def test_a_start_that_cannot_be(start, settings, words, trained, tmp_path):
    with pytest.raises(UserError, match=words):
        list(epochs(tiny_config("fgsm", init_from=str(trained / start), **settings), tmp_path / "run", device="cpu"))
    assert not (tmp_path / "run").exists()

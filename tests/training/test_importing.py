"""Checkpoints of another program as a run."""

import sys
from pathlib import Path

import numpy as np
import pytest
import their_project
import torch
from their_project import EPSILON, MEAN, STD, SmallNet
from torch import nn

import co_probe
from co_probe.attacks import FGSM
from co_probe.cli.main import main
from co_probe.data.digits import digits
from co_probe.errors import UserError
from co_probe.models.preact_resnet import PreActResNet
from co_probe.runs.run import open_with
from co_probe.training.plausibility import Plausibility

DATA = digits()
TEST = DATA.test_x[:80], DATA.test_y[:80]
TRAIN = DATA.train_x[:60], DATA.train_y[:60]
ASK = {"model": SmallNet, "test": TEST, "epsilon": EPSILON, "normalise": ((MEAN,), (STD,)), "device": "cpu"}


@pytest.fixture(scope="module")
def ckpts(tmp_path_factory) -> Path:
    """A folder of four checkpoints and a log."""
    folder = tmp_path_factory.mktemp("project") / "ckpts"
    folder.mkdir()
    their_project.train(folder, DATA.train_x, DATA.train_y, 4)
    return folder


def pattern(folder: Path) -> str:
    return str(folder / "model_epoch_{epoch}.pth")


@pytest.fixture(scope="module")
def imported(ckpts, tmp_path_factory) -> Path:
    """The run of these: read it, do not write to it."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    co_probe.import_run(
        pattern(ckpts), **ASK, train=TRAIN, attack="fgsm", log=ckpts / "log.csv", out=out, report=lambda line: None
    )
    return out


def bare(folder: Path, epoch: int) -> nn.Module:
    """The network as its own project has it, on normalised images."""
    model = SmallNet()
    state = torch.load(folder / f"model_epoch_{epoch}.pth", weights_only=True)["state_dict"]
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return model.eval()


def normalised(x):
    return (x - MEAN) / STD


def test_the_run_measures_the_same_as_the_project(ckpts, imported):
    run, (x, y) = co_probe.Run(imported, model=SmallNet), TEST
    assert run.epochs == [1, 2, 3, 4]
    for epoch in (1, 4):
        theirs, metrics = bare(ckpts, epoch), run.metrics(epoch)
        with torch.no_grad():
            assert metrics["clean"] == pytest.approx((theirs(normalised(x)).argmax(1) == y).float().mean().item())
        images = x.clone().requires_grad_()
        gradient = torch.autograd.grad(nn.functional.cross_entropy(theirs(normalised(images)), y), images)[0]
        attacked = (x + EPSILON * gradient.sign()).clamp(0, 1)
        right = (theirs(normalised(attacked)).argmax(1) == y).float().mean().item()
        assert metrics["fgsm"] == metrics["train_attack"] == pytest.approx(right)
        assert 0 <= metrics["pgd10"] <= metrics["clean"] and metrics["gap_low"] <= metrics["gap"] <= metrics["gap_high"]


def test_logits_of_load_model_are_the_projects(ckpts, imported):
    x = TEST[0]
    for model in (SmallNet, SmallNet(), "their_project:SmallNet"):
        if isinstance(model, str):
            co_probe.allow(model)
        run = co_probe.open_run(imported, model=model)
        torch.testing.assert_close(run.load_model(3)(x), bare(ckpts, 3)(normalised(x)))
    assert list(run.weights(3)) == sorted(SmallNet().state_dict())


def test_the_facts_of_the_run(imported):
    info = co_probe.Run(imported).info
    assert (info.attack, info.method, info.model.name, info.model.foreign) == (
        "fgsm",
        "fgsm",
        "their_project:SmallNet",
        True,
    )
    assert info.classes == tuple("0123456789") and info.shape == (1, 16, 16) and info.settings is None
    assert info.mean == pytest.approx((MEAN,)) and info.seed is None


def test_the_log_is_joined_to_the_metrics_without_unknown_values(imported, ckpts, tmp_path):
    run = co_probe.Run(imported)
    assert 0 < run.metrics(2)["train_accuracy"] < 1 and run.metrics(2)["train_loss"] > 0
    assert "learning_rate" not in run.metrics(2)
    plain = co_probe.import_run(pattern(ckpts), **ASK, out=tmp_path / "plain", report=lambda line: None)
    assert set(plain.metrics(2)) == {"clean", "fgsm", "pgd10", "gap", "gap_low", "gap_high"}
    assert not plain.frame("metrics")["value"].isna().any()


def test_conversions_are_reported_once(ckpts, tmp_path):
    lines: list[str] = []
    co_probe.import_run(pattern(ckpts), **ASK, out=tmp_path / "r", report=lines.append)
    said = "model_epoch_4.pth: Weights were taken from its entry 'state_dict', stripped of 'module.'."
    assert lines == [said]


def test_more_checkpoints_are_added_without_measuring_the_first_again(ckpts, tmp_path):
    out, files = tmp_path / "r", [ckpts / f"model_epoch_{epoch}.pth" for epoch in (1, 2, 3, 4)]
    options = {**ASK, "out": out, "report": lambda line: None}
    co_probe.import_run([files[0], files[2]], **options)
    before = (out / "epoch-0003.h5").stat().st_mtime_ns
    steps: list[tuple] = []
    run = co_probe.import_run(files, **options, progress=lambda *step: steps.append(step))
    assert run.epochs == [1, 2, 3, 4] and steps == [("epoch 2", 1, 2), ("epoch 4", 2, 2)]
    assert (out / "epoch-0003.h5").stat().st_mtime_ns == before
    assert torch.equal(run.load_model(2)(TEST[0]), co_probe.import_run(files[1], **options).load_model(2)(TEST[0]))
    for other, said in (
        ({"epsilon": 0.1}, "with epsilon 0.14, not 0.1"),
        ({"test": (TEST[0].flip(0), TEST[1].flip(0))}, "other test images"),
        ({"normalise": ((MEAN,), (0.4,))}, "std"),
    ):
        with pytest.raises(UserError, match=said):
            co_probe.import_run(files, **options | other)
    assert co_probe.import_run(files[:1], **options | {"epsilon": 0.1}, overwrite=True).epochs == [1]


def test_a_run_that_was_trained_is_not_imported_into(ckpts, runs):
    with pytest.raises(UserError, match="co-probe trained"):
        co_probe.import_run(pattern(ckpts), **ASK, out=runs / "fgsm")


def test_the_wrong_normalisation_is_found_before_anything_is_written(ckpts, tmp_path):
    options = ASK | {"normalise": None, "test": (DATA.test_x[:400], DATA.test_y[:400])}
    dark = DATA.test_x[:400] * 0.4 + 0.6  # what a network sees that was trained on normalised images, without that
    with pytest.raises(UserError, match="check=False imports the model as it is"):
        co_probe.import_run(pattern(ckpts), **options | {"test": (dark, DATA.test_y[:400])}, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
    other = (DATA.test_y[:400] + 1) % 10
    with pytest.raises(UserError, match="classes in another order"):
        co_probe.import_run(pattern(ckpts), **ASK | {"test": (DATA.test_x[:400], other)}, out=tmp_path / "r")


def test_a_last_model_that_a_collapse_has_changed_is_imported_with_a_note(ckpts, tmp_path, monkeypatch):
    found = iter([Plausibility("is the normalisation right?", serious=True), Plausibility()])
    monkeypatch.setattr("co_probe.training.importing.plausibility", lambda *_: next(found))
    said = []
    co_probe.import_run(pattern(ckpts), **ASK, out=tmp_path / "r", report=said.append)
    assert "Note: is the normalisation right?" in said
    co_probe.import_run(pattern(ckpts), **ASK | {"check": False}, out=tmp_path / "r", report=said.append)
    assert said[-1] == "Note: all of these checkpoints were imported before"


@pytest.mark.parametrize(
    "change, said",
    [
        ({"epsilon": 8}, "did you mean 8/255"),
        ({"epsilon": 0}, "greater than 0"),
        ({"norm": "l1"}, "unknown norm"),
        ({"test": (TEST[0], TEST[1] + 1)}, "up to 10, and the model has 10|pass y - 1"),
        ({"test": (TEST[0][..., :8], TEST[1])}, "cannot take images of shape"),
        ({"classes": ("a", "b")}, "10 classes and the data 2"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(256, 10))}, "does not fit the model"),
        ({"attack": "fgms"}, "fgsm"),
        ({"normalise": "cifar10"}, "3 means and 3 stds, and images have 1"),
        ({"train": (TRAIN[0], TRAIN[1] + 9)}, "train labels run up to"),
        ({"train": (TRAIN[0][..., :8], TRAIN[1])}, "train images have shape"),
        ({"key": "weights"}, "no entry 'weights'"),
        ({"log": {"speed": [1]}}, "its columns are speed"),
    ],
)
def test_input_that_does_not_fit_is_refused_in_one_line(ckpts, tmp_path, change, said):
    with pytest.raises(UserError, match=said) as caught:
        co_probe.import_run(pattern(ckpts), **ASK | change, out=tmp_path / "r", report=lambda line: None)
    assert "\n" not in str(caught.value) and not (tmp_path / "r").exists()


def test_training_attacks_by_name_as_objects_and_as_functions(ckpts, tmp_path):
    def mine(model, x, y):
        return FGSM(epsilon=EPSILON)(model, x, y)

    runs = {}
    for number, attack in enumerate(("fgsm", FGSM(epsilon=EPSILON), mine, "fgsm-rs", "pgd2")):
        runs[number] = co_probe.import_run(
            ckpts / "model_epoch_4.pth", **ASK, attack=attack, out=tmp_path / str(number), report=lambda line: None
        )
    own = [run.metrics(4)["train_attack"] for run in runs.values()]
    assert own[0] == own[1] == own[2]
    names = [str(run.info.attack).partition("(")[0] for run in runs.values()]
    assert names == ["fgsm", "FGSM", "mine", "fgsm-rs", "pgd2"]
    for wrong, said in (
        (lambda model, x, y: (x + 0.1).clamp(0, 1), "return x_adv - x"),
        (lambda model, x, y: torch.full_like(x, 0.5), "length 0.5, and epsilon is 0.14"),
        (lambda model, x, y: 3, "must return δ"),
        (7, "attack must be a name"),
    ):
        with pytest.raises(UserError, match=said):
            co_probe.import_run(ckpts / "model_epoch_4.pth", **ASK, attack=wrong, out=tmp_path / "w", overwrite=True)


def test_the_literatures_network_by_its_built_in_name(tmp_path):
    torch.manual_seed(0)
    theirs = PreActResNet(1, 10, [MEAN], [STD], width=8, blocks=(1, 1)).eval()
    state = {f"module.{name}": value.half() for name, value in theirs.state_dict().items() if "normalize" not in name}
    torch.save(state, tmp_path / "m_epoch0.pt")
    lines: list[str] = []
    run = co_probe.import_run(
        tmp_path / "m_epoch{epoch}.pt",
        **ASK | {"model": "preact_resnet"},
        model_settings={"width": 8, "blocks": [1, 1]},
        out=tmp_path / "r",
        check=False,
        report=lines.append,
    )
    assert run.epochs == [1] and any("m_epoch0.pt is epoch 1" in line for line in lines)
    assert any("converted from float16" in line for line in lines)
    expected = theirs(TEST[0])
    torch.testing.assert_close(co_probe.open_run(run.path).load_model(1)(TEST[0]), expected, atol=0.02, rtol=0.02)


def test_a_run_of_a_class_without_a_name_needs_the_model(ckpts, tmp_path):
    class Local(SmallNet):
        pass

    out = tmp_path / "r"
    run = co_probe.import_run(pattern(ckpts), **ASK | {"model": Local()}, out=out, report=lambda line: None)
    assert run.load_model(1)(TEST[0]).shape == (80, 10)
    with pytest.raises(UserError, match="model="):
        co_probe.open_run(out).load_model(1)
    with pytest.raises(UserError, match="model="):
        co_probe.open_run(out, model=PreActResNet(1, 10, [0.0], [1.0], width=8, blocks=(1,))).load_model(1)


def test_the_command_line(ckpts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(their_project.__file__).parent))
    command = ["import", pattern(ckpts), "--model", "their_project:SmallNet", "--data", "digits", "--images", "80"]
    command += ["--epsilon", "0.14", "--attack", "fgsm", "--log", str(ckpts / "log.csv"), "--device", "cpu"]

    def call(*more):
        with pytest.raises(SystemExit) as ended:
            main([*command, *more])
        return ended.value.code, capsys.readouterr()

    code, said = call("--normalise", f"{MEAN}/{STD}")
    assert code == 0, said.err
    assert "stripped of 'module.'" in said.err and "Imported 4 epochs to runs/ckpts" in said.out
    code, said = call("--normalise", f"{MEAN}/{STD}", "--epsilon", "8")
    assert code == 2 and "did you mean 8/255" in said.err
    code, said = call("--normalise", f"{MEAN}/0.1")
    assert code == 2 and ("--no-check" in said.err or "--overwrite" in said.err)
    np.testing.assert_equal(sorted(path.name for path in Path("runs").iterdir()), ["ckpts"])
    sys.modules.pop("unused", None)


def test_an_attack_that_is_left_out_later_is_named(ckpts, tmp_path):
    co_probe.import_run(ckpts / "model_epoch_1.pth", **ASK, attack="fgsm", out=tmp_path / "run")
    with pytest.raises(UserError, match="was imported with attack 'fgsm', now without: give attack='fgsm' again"):
        co_probe.import_run(pattern(ckpts), **ASK, out=tmp_path / "run")


def test_a_network_given_for_several_runs_applies_to_imported_ones(imported, runs):
    own, foreign = (open_with(path, SmallNet) for path in (runs / "fgsm", imported))
    assert not isinstance(own.load_model(1), SmallNet) and own.model is None
    torch.testing.assert_close(
        foreign.load_model(2)(TEST[0]), co_probe.open_run(imported, model=SmallNet).load_model(2)(TEST[0])
    )

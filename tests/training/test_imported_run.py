"""Everything that can be done with a run works on one that was imported."""

import shutil
from pathlib import Path

import pytest
import their_project
import torch
from their_project import EPSILON, MEAN, STD, SmallNet

import co_probe
from co_probe.cli.main import main
from co_probe.data.digits import digits
from co_probe.errors import UserError
from co_probe.runs.checkpoints import export

DATA = digits()


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with `runs/mine`, of three checkpoints that DataParallel saved, and a reference."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "ckpts").mkdir()
    their_project.train(folder / "ckpts", DATA.train_x, DATA.train_y, 3)
    run = co_probe.import_run(
        str(folder / "ckpts" / "model_epoch_{epoch}.pth"),
        model=SmallNet,
        test=(DATA.test_x[:40], DATA.test_y[:40]),
        train=(DATA.train_x[:30], DATA.train_y[:30]),
        epsilon=EPSILON,
        normalise=((MEAN,), (STD,)),
        attack="fgsm-rs",
        out=folder / "runs" / "mine",
        data="digits",
        device="cpu",
        report=lambda line: None,
    )
    export(run, 3, folder / "ref.pt")
    return folder


@pytest.fixture
def here(project, tmp_path, monkeypatch) -> Path:
    """A copy of it as the working directory, in which the class of the model may be imported."""
    shutil.copytree(project, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("CO_PROBE_ALLOW", "their_project:SmallNet")
    return tmp_path / "project"


def call(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    return said.out


@pytest.mark.parametrize(
    "command",
    [
        "show",
        "show runs/mine",
        "gap runs/mine",
        "gap runs/mine --against pgd2 --generator method --device cpu",
        "gap runs/mine --against pgd2 --split train --device cpu",
        "eval runs/mine --attacks clean,fgsm --device cpu",
        "strength runs/mine --reference ref.pt --device cpu",
        "strength runs/mine --reference mine@1 --generator method --device cpu",
        "strength runs/mine --reference ckpts/model_epoch_2.pth --reference-model their_project:SmallNet --device cpu "
        "--no-check",
        "probe curvature runs/mine --device cpu",
        "probe alignment runs/mine --device cpu",
        "probe spectrum runs/mine --device cpu",
        "export runs/mine --epoch 2 -o out.pt",
        "pack runs/mine -o packed.h5",
    ],
)
def test_commands(here, capsys, command):
    assert "nan" not in call(capsys, *command.split()).lower()


@pytest.mark.parametrize("figure", ["gap", "deterioration", "perturbations", "spectrum", "robust-overfitting"])
def test_figures(here, capsys, figure):
    call(capsys, "strength", "runs/mine", "--reference", "ref.pt", "--device", "cpu")
    call(capsys, "plot", figure, "runs/mine", "--device", "cpu", "-o", "figure.png")
    assert Path("figure.png").stat().st_size > 5000


def test_a_figure_for_apart_names_its_requirement(here, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plot", "steps", "runs/mine"])
    assert ended.value.code == 2 and "APART" in capsys.readouterr().err


def test_a_packed_imported_run_is_measured_without_its_checkpoints_and_data(here, capsys, monkeypatch):
    call(capsys, "pack", "runs/mine", "-o", "packed.h5")
    for folder in ("ckpts", "runs"):
        shutil.rmtree(folder)
    monkeypatch.setattr("co_probe.data.digits.digits", None)
    monkeypatch.setenv("CO_PROBE_ALLOW", "")
    run = co_probe.open_run("packed.h5", model=SmallNet())
    assert len(co_probe.gap(run, against="pgd2", device="cpu")) == 6
    assert torch.equal(run.test_data()[0], DATA.test_x[:40])


def test_the_generator_of_an_unknown_training_attack_is_asked_for(project, tmp_path):
    run = co_probe.import_run(
        project / "ckpts" / "model_epoch_3.pth",
        model=SmallNet,
        test=(DATA.test_x[:40], DATA.test_y[:40]),
        epsilon=EPSILON,
        normalise=((MEAN,), (STD,)),
        out=tmp_path / "r",
        device="cpu",
        report=lambda line: None,
    )
    with pytest.raises(UserError, match="recorded without its training attack: name one"):
        co_probe.gap(run, generator="method", device="cpu")
    with pytest.raises(UserError, match="has no train images"):
        co_probe.gap(run, split="train", device="cpu")


@pytest.mark.parametrize(
    "command", ["gap --against pgd2", "eval --attacks fgsm", "probe alignment", "plot alignment", "diagnose"]
)
def test_a_model_that_the_run_may_not_name_is_typed(here, capsys, monkeypatch, command):
    monkeypatch.setenv("CO_PROBE_ALLOW", "")
    monkeypatch.setattr("co_probe.config.plugins._allowed", [])
    name, *rest = command.split()
    if name == "diagnose":  # which says why nothing is measured, and goes on
        assert "not checked for masked gradients: model their_project:SmallNet" in call(capsys, name, "runs/mine")
        assert "no sign of masked gradients" in call(capsys, name, "runs/mine", "--model", "their_project:SmallNet")
        return
    arguments = [name, *(["alignment"] if "alignment" in rest else []), "runs/mine", "--device", "cpu"]
    arguments += [word for word in rest if word != "alignment"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "their_project:SmallNet" in capsys.readouterr().err
    call(capsys, *arguments, "--model", "their_project:SmallNet")


def test_a_foreign_reference_is_judged_on_the_clean_images(here, capsys):
    """As the checkpoints of an import are: 0.9/0.1 shows the network nothing that it knows."""
    checkpoint = ["--reference", "ckpts/model_epoch_3.pth", "--reference-model", "their_project:SmallNet"]
    wrong = ["strength", "runs/mine", *checkpoint, "--reference-normalise", "0.9/0.1", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1, error
    assert "accuracy on clean images of the reference model_epoch_3.pth is" in error
    assert (
        "without normalisation: is --reference-normalise right? If it is right, --no-check measures with it as it is"
        in error
    )
    call(capsys, *wrong, "--no-check")
    right = f"{MEAN}/{STD}"
    call(capsys, "strength", "runs/mine", *checkpoint, "--reference-normalise", right, "--device", "cpu")
    with pytest.raises(UserError, match="check=False measures with it as it is"):
        co_probe.strength("runs/mine", SmallNet(), device="cpu")
    with pytest.raises(UserError, match="the reference Sequential has 3 classes, and mine has 10"):
        side = DATA.test_x.shape[-1]
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(side * side, 3))
        co_probe.strength("runs/mine", module, device="cpu")


def test_images_without_a_name_are_called_by_their_size(project, tmp_path):
    run = co_probe.import_run(
        project / "ckpts" / "model_epoch_3.pth",
        model=SmallNet,
        test=(DATA.test_x[:40], DATA.test_y[:40]),
        epsilon=EPSILON,
        normalise=((MEAN,), (STD,)),
        out=tmp_path / "nameless",
        device="cpu",
        report=lambda line: None,
    )
    side = DATA.test_x.shape[-1]
    assert run.info.data == f"{side}×{side} images"
    assert co_probe.draw("gap", run).get_suptitle().startswith(f"{side}×{side} images, ε = ")


def test_one_network_behind_two_normalisations_is_two_references(here, capsys):
    """Same weights, same file: neither are stored rows of the one taken for the other, nor drawn as one line."""
    checkpoint = ["--reference", "ckpts/model_epoch_2.pth", "--reference-model", "their_project:SmallNet"]
    for normalise in ([], ["--reference-normalise", "0.9/0.1"]):
        call(capsys, "strength", "runs/mine", *checkpoint, *normalise, "--no-check", "--device", "cpu")
    run = co_probe.open_run("runs/mine")
    every = run.frame("strength")
    assert every["reference"].nunique() == 1 and every["reference_id"].nunique() == 2
    newest = run.frame("strength", generator="fgsm")  # as figures take it
    assert set(newest["reference_id"]) == {every["reference_id"].iloc[-1]}
    assert not newest.duplicated(["quantity", "epoch"]).any()

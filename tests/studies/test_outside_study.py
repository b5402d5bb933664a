"""A study that co-probe does not know is registered from outside, and has all that its own studies have."""

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
import striped_study

import co_probe
from co_probe.config.commands import COMMANDS
from co_probe.config.exports import EXPORTS
from co_probe.config.settings import Config
from co_probe.errors import UserError
from co_probe.methods import METHODS

matplotlib.use("Agg")

SMALL = {"epochs": 2, "epsilon": 0.1, "batch_size": 32, "probe": {"test": 8, "train": 8}, "model": {"width": 8}}
ENTRY_POINTS = "[co_probe.studies]\nstriped = striped_study:register\nbroken = striped_study:nothing\n"


@pytest.fixture
def registered(registries):
    """The study, for the length of a test: other tests count what there is."""
    striped_study.register()


def test_a_study_has_data_a_method_settings_and_a_figure(registered, tmp_path):
    run = co_probe.train("half-fgsm", data="stripes", contrast="1/2", out=tmp_path / "run", device="cpu", **SMALL)
    x, y = run.test_data()
    assert x.unique().tolist() == [0, 0.5]
    delta = run.generator(2).perturb(run.load_model(2), x, y, epsilon=run.epsilon)
    assert delta.abs().max().item() <= run.epsilon / 2 + 1e-6
    assert Config.from_dict(run.config.to_dict()) == run.config and run.config.to_dict()["contrast"] == 0.5
    figure = co_probe.draw("stripes", [run])
    (label,) = figure.axes[0].get_legend().get_texts()
    assert label.get_text() == "FGSM/2" and "contrast 0.5" in figure.get_suptitle()


def test_a_study_has_a_probe_a_function_and_a_command(registered, call, tmp_path):
    co_probe.train("half-fgsm", data="stripes", out=tmp_path / "run", device="cpu", **SMALL)
    frame = co_probe.directions(tmp_path / "run", device="cpu")
    assert list(frame["quantity"]) == ["vertical", "horizontal"] * 2 and frame["n"].sum() == 16
    assert "directions" in dir(co_probe)
    assert co_probe.open_run(tmp_path / "run").frame("directions")["value"].tolist() == frame["value"].tolist()
    code, out, err = call("directions", tmp_path / "run", "--device", "cpu")
    assert (code, err) == (0, "") and out == frame.to_csv(index=False)
    assert re.search(r"^  directions +Accuracy on the stripes of each direction", call("--help")[1], re.MULTILINE)
    code, _, err = call("directions", tmp_path / "elsewhere")
    assert code == 2 and err.count("\n") == 1 and "elsewhere is not a run" in err


def test_a_broken_command_does_not_affect_others(registered, call):
    COMMANDS.register("lost", "striped_study.nowhere:lost")
    COMMANDS.register("odd", "striped_study.parts:stripes")
    assert re.search(r"^  lost +\(striped_study\.nowhere:lost cannot be imported", call("--help")[1], re.MULTILINE)
    missing = "Error: command lost: striped_study.nowhere:lost cannot be imported: ModuleNotFoundError("
    code, out, err = call("lost", "--epsilon", "3", "run")
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(missing)
    assert call("odd")[2] == "Error: command odd: striped_study.parts:stripes is no click.Command\n"
    with pytest.raises(ValueError, match=r"command gap is registered already, as co_probe\.cli\.gap:gap"):
        COMMANDS.register("gap", "striped_study.command:directions")
    with pytest.raises(ValueError, match="public name draw is registered already"):
        EXPORTS.register("draw", "striped_study.figure:draw")


def test_a_study_is_swept_over(registered, tmp_path):
    grid = co_probe.Grid(methods=("half-fgsm",), vary={"contrast": ("1/2", 0.9)}, settings={"data": "stripes", **SMALL})
    cells = grid.cells(tmp_path)
    assert [path.name for path in cells] == ["half-fgsm-eps0.1-contrast0.5-seed0", "half-fgsm-eps0.1-contrast0.9-seed0"]
    assert [config.to_dict()["contrast"] for config in cells.values()] == [0.5, 0.9]


def test_errors_of_a_study_are_one_line(registered):
    with pytest.raises(UserError, match="contrast must be between 0 and 1, not 2"):
        co_probe.train("half-fgsm", data="stripes", contrast=2, **SMALL)
    with pytest.raises(UserError, match="did you mean contrast"):
        co_probe.train("half-fgsm", data="stripes", contrst=2, **SMALL)


def test_a_registered_name_is_unique(registered):
    striped_study.register()  # the same once more
    with pytest.raises(ValueError, match=r"method fgsm is registered already, as co_probe\.methods\.fgsm:FGSM"):
        METHODS.register("fgsm", "striped_study.parts:HalfFGSM")
    with pytest.raises(ValueError, match=r"the target must be package\.module:Name, not 'striped_study'"):
        METHODS.register("striped", "striped_study")


@pytest.mark.slow
def test_an_installed_study_is_known_to_the_command_line(tmp_path):
    info = tmp_path / "striped_study-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: striped-study\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

    def call(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "co_probe", *arguments]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)

    listed = call("list")
    assert "half-fgsm" in listed.stdout and "stripes" in listed.stdout
    assert "the study broken cannot be registered" in listed.stderr, "and takes nothing along"
    assert "--contrast" in call("run", "--help").stdout and "--contrasts" in call("sweep", "--help").stdout

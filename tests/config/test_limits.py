"""Settings that no run can have are refused before anything is allocated."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from co_probe.cli.main import main
from co_probe.config import parse_assignment
from co_probe.config.presets import configure
from co_probe.errors import UserError
from co_probe.training.loop import epochs

SMALL = {"epochs": 1, "batch_size": 512, "probe": {"test": 10}, "data": {"size": 8}, "model": {"width": 8}}
DEEP = "[" * 5000 + "]" * 5000

REFUSED = {
    "optimizer.learning_rate=inf": "optimizer.learning_rate must be a finite number, not inf",
    "optimizer.learning_rate=nan": "optimizer.learning_rate must be a number, not nan",
    "optimizer.weight_decay=1e308": "optimizer.weight_decay must be at most 1e+06, not 1e+308",
    "optimizer.momentum=2": "optimizer.momentum must be less than 1, not 2",
    "epochs=1000000000": "epochs must be at most 1e+06, not 1e+09",
    f"epochs={10**20}": "epochs is a number of 67 bits",
    f"batch_size={2**63}": "batch_size is a number of 64 bits",
    f"batch_size={2**62}": "batch_size must be at most 1e+09",
    "augmentation.padding=1000000": "augmentation.padding must be at most 10,000",
    "augmentation.padding=9999": "augmentation.padding = 9999 of 1297 images needs",
    f"data.size={2**63 - 1}": "needs",
    "data.size=100000": "data set digits at size 100000 needs 143,760 GB of memory",
    "model.width=100000000": "of memory",
    f"model.width={2**62}": "memory than any machine has",
    "model.blocks=[100000]": "there can be 1000 blocks at most, not 100000",
    "model.width=1979-05-27": "model.width cannot be a date or a time (1979-05-27)",
    "model.width=07:32:00": "model.width cannot be a date or a time",
    "epochs=1979-05-27T07:32:00Z": "epochs cannot be a date or a time",
    "model.blocks=[[1979-05-27]]": "model.blocks cannot be a date or a time",
    f"model.blocks={DEEP}": "nested too deeply",
    f"model.blocks={'[' * 20}{']' * 20}": "model.blocks is nested too deeply",
    f"epochs={'9' * 5000}": "a number is too long",
}


@pytest.mark.parametrize("assignment", REFUSED, ids=lambda text: text[:40])
def test_an_invalid_setting_is_refused(assignment, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as error:
        config = configure("digits", "fgsm", SMALL, parse_assignment(assignment))
        next(epochs(config, tmp_path / "run", device="cpu"))
    assert REFUSED[assignment] in str(error.value) and "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("toml", [f"a = {DEEP}", f"epochs = {'9' * 5000}", "seed = 1979-05-27", f"[x{'.x' * 3000}]"])
@pytest.mark.parametrize("command", [["run", "fgsm", "--preset"], ["sweep"]])
def test_an_invalid_file_is_refused(toml, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(f"{toml}\n")
    with pytest.raises(SystemExit) as exit:
        main([*command, "mine.toml"])
    err = capsys.readouterr().err
    assert exit.value.code == 2 and err.startswith("Error: ") and err.count("\n") == 1


def test_settings_of_the_model_are_checked_before_the_data_is_loaded(tmp_path, monkeypatch):
    from co_probe.training import loop

    monkeypatch.setattr(loop, "make_data", lambda *_: pytest.fail("the data set is loaded"))
    config = configure("digits", "fgsm", SMALL, {"model": {"wdth": 8}})
    with pytest.raises(UserError, match="'wdth': did you mean width"):
        next(epochs(config, tmp_path / "run", device="cpu"))


def test_checking_the_memory_of_a_model_draws_no_random_numbers():
    code = (
        "import torch\nfrom co_probe.models import MODELS\nfrom co_probe.runs.build import new_model\n"
        "arguments = 1, 10, (0.0,), (1.0,)\ntorch.manual_seed(0)\n"
        "made = new_model('preact_resnet', {'width': 8}, (1, 8, 8), *arguments[1:])\ntorch.manual_seed(0)\n"
        "plain = MODELS.make('preact_resnet', *arguments, width=8)\n"
        "print(all(map(torch.equal, made.state_dict().values(), plain.state_dict().values())))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "True\n", result.stderr

"""Runs whose robustness is not real are called masked, by `diagnose` and by all that shows a verdict after it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from masked_models import DATA, EPSILON, Plain, Quantised, Scaled, weights

import co_probe
from co_probe.cli.main import main
from co_probe.diagnosis import verdict_of
from co_probe.diagnosis.masking import masking_checks
from co_probe.runs import Run
from co_probe.store import StoredRun

EPOCHS = 6


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Makes a run of six equal checkpoints of a network: `imported(Scaled)`, once for each."""
    folder = tmp_path_factory.mktemp("imported")
    made: dict[str, Run] = {}

    def run(kind: type[Plain], robust: bool = False) -> Run:
        name = f"{kind.__name__}-{robust}"
        if name not in made:
            for epoch in range(1, EPOCHS + 1):
                torch.save(weights(robust), folder / f"{name}_{epoch}.pt")
            made[name] = co_probe.import_run(
                str(folder / (name + "_{epoch}.pt")),
                model=kind,
                test=(DATA.test_x[:150], DATA.test_y[:150]),
                epsilon=EPSILON,
                attack="fgsm",
                out=folder / "runs" / name,
                device="cpu",
                report=lambda line: None,
            )
        return made[name]

    return run


@pytest.mark.parametrize(
    ("kind", "clause"), [(Quantised, "gradient is exactly zero"), (Scaled, "margin of the logits")]
)
def test_masked_models_are_called_masked(imported, kind, clause):
    run = imported(kind)
    steps: list[tuple[int, int]] = []
    found = co_probe.diagnose(run, device="cpu", progress=lambda _, done, todo: steps.append((done, todo)))
    assert found.verdict.kind == "masked" and found.verdict.headline == "masked gradients"
    assert clause in found.verdict.summary() and "at epoch" in found.verdict.reasons[0]
    assert steps in ([(1, 2), (2, 2)], [])  # of the best and the last epoch; nothing if another test was first
    assert [each.epoch for each in masking_checks(run)] == [1, EPOCHS]
    again = co_probe.diagnose(run.path, quick=True)
    assert again.verdict == found.verdict == verdict_of(StoredRun(run.path)) == run.verdict
    section = next(each for each in found.sections if each.title == "Masking")
    assert len(section.lines) == 2 and "Square" in section.lines[1] and "masked gradients: " in section.lines[1]
    entry = json.loads(json.dumps(found.to_dict()))
    assert entry["kind"] == "masked" and "query" in entry["masking"][0]["suspicious"]
    assert entry["masking"][0]["clean"] > 0.9 and "### Masking" in found.to_markdown()


@pytest.mark.parametrize("robust", [True, False])
def test_honest_models_are_not_called_masked(imported, robust):
    run = imported(Plain, robust)
    found = co_probe.diagnose(run, device="cpu")
    assert found.verdict.kind == ("healthy" if robust else "never-robust")
    section = next(each for each in found.sections if each.title == "Masking")
    assert all("no sign of masked gradients" in line for line in section.lines)


def test_without_the_network_the_notes_say_why_no_check_was_made(imported, tmp_path):
    copy = Path(shutil.copytree(imported(Plain, True).path, tmp_path / "copy"))
    (copy / "results.h5").unlink(missing_ok=True)
    found = co_probe.diagnose(copy)
    assert found.verdict.kind == "healthy" and not masking_checks(StoredRun(copy))
    notes = next(each for each in found.sections if each.title == "Notes")
    assert any("not checked for masked gradients" in line for line in notes.lines)


def test_rows_at_another_bound_are_not_evidence(imported):
    run = imported(Plain, True)
    co_probe.probe("masking", run, epsilon=3 * EPSILON, epochs="last", images=60, device="cpu")
    assert {each.n for each in masking_checks(run)} <= {128}


def test_the_command_measures_once_or_not_at_all(runs, capsys):
    def call(*arguments) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return said.out

    assert "Masking" not in call("diagnose", runs / "fgsm", "--quick")
    assert StoredRun(runs / "fgsm").frame("masking").empty
    out = call("diagnose", runs / "fgsm", "--device", "cpu")
    assert "Masking" in out and "no sign of masked gradients" in out
    run = StoredRun(runs / "fgsm")
    assert set(run.frame("masking")["epoch"]) == {run.best_epoch, run.last_epoch}
    assert "Masking" in call("diagnose", runs / "fgsm", "--quick", "--markdown")
    table = call("probe", "masking", runs / "fgsm", "--device", "cpu")
    assert "query" in table and "%" in table

"""The timeline and the mechanism of a collapse: of runs with step series, imported runs, logs, and runs without one."""

import json

import pandas as pd
import pytest
from synthetic_runs import Nothing, collapsing, healthy, step_series, synthetic_run

import co_probe
from co_probe.diagnosis.advice import advice_for
from co_probe.diagnosis.changes import relation
from co_probe.diagnosis.measuring import PROBES
from co_probe.store import StoredRun


def section(found, title: str):
    return next((each for each in found.sections if each.title == title), None)


@pytest.fixture(scope="module")
def fallen(tmp_path_factory):
    curves = collapsing() | {"gap": [0.2] * 11 + [6.0] * 9, "train_accuracy": [0.7] * 11 + [0.99] * 9}
    return synthetic_run(tmp_path_factory.mktemp("runs") / "fallen", curves, step_series())


def test_the_timeline_orders_changes_and_lists_unchanged_indicators(fallen):
    found = section(co_probe.diagnose(fallen, quick=True), "Timeline")
    first, *lines, still = found.lines
    assert first.startswith("first: PertAlign (cosine), at epoch 10.8, before robust accuracy (epoch 12)")
    assert lines[0].startswith("epoch 10.8: PertAlign (cosine) fell from 0.8 to 0.1, before robust accuracy")
    assert "epoch 12: PGD accuracy fell from 60.0% to 2.0%" in lines
    assert any(
        line.startswith("epoch 12: gap to PGD-10 (nats) rose from 0.2 to 6, in the same epoch") for line in lines
    )
    assert any("training accuracy rose from 70.0% to 99.0%" in line for line in lines)
    assert still == "no clear change: zero gradients (share)"
    entries = {each["name"]: each for each in found.data}
    assert entries["pert_alignment"]["relation"] == "before" and entries["gap/gap"]["relation"] == "same"
    assert entries["loss"]["baseline"] and entries["zero_gradients"]["epoch"] is None


def test_the_mechanism_is_supported_by_the_evidence(fallen):
    found = co_probe.diagnose(fallen, quick=True)
    told = {each["name"]: each for each in section(found, "Mechanism").data}
    assert list(told)[:2] == ["turning", "decay"], "the supported ones come first, in the order of time"
    assert told["turning"]["supported"] and told["decay"]["supported"]
    assert told["label"]["supported"] is False and told["memorisation"]["supported"] is None
    lines = section(found, "Mechanism").lines
    assert "input gradients turn within the ε-ball: supported: PertAlign (cosine) fell from 0.8 to 0.1" in lines
    assert "training images are memorised: not measured" in lines


def test_perturbations_that_help_carry_labels(tmp_path):
    curves = collapsing()
    curves["clean"] = [0.8] * 20
    found = co_probe.diagnose(synthetic_run(tmp_path / "label", curves), quick=True)
    told = {each["name"]: each for each in section(found, "Mechanism").data}
    assert told["label"]["supported"] is True
    assert told["label"]["evidence"] == ["accuracy under the training attack (95.0%) exceeds clean accuracy (80.0%)"]
    assert told["turning"]["supported"] is None


def test_advice_against_the_supported_mechanism_comes_first(fallen):
    verdict = co_probe.diagnose(fallen, quick=True).verdict
    assert "checkpoint of epoch" in advice_for(verdict)[0].text
    assert [each.against for each in advice_for(verdict, ["turning"])[1:3]] == ["turning", "turning"]
    assert advice_for(verdict, ["memorisation"])[1].text.startswith("DOM")
    assert "--guard" in advice_for(verdict)[1].text and len(advice_for(verdict)) == 5


def test_a_healthy_run_has_neither(tmp_path):
    run = synthetic_run(tmp_path / "sound", healthy(), step_series(falls_at=None))
    found = co_probe.diagnose(run, quick=True)
    assert found.verdict.kind == "healthy"
    assert section(found, "Timeline") is None and section(found, "Mechanism") is None


def test_robust_overfitting_memorises(tmp_path):
    pgd = [0.3 + 0.03 * epoch for epoch in range(10)] + [0.57 - 0.01 * epoch for epoch in range(15)]
    curves = {"clean": [0.9] * 25, "train_attack": [value + 0.03 for value in pgd], "pgd10": pgd}
    curves |= {"train_accuracy": [0.5 + 0.02 * epoch for epoch in range(25)], "gap": [0.2] * 25}
    found = co_probe.diagnose(synthetic_run(tmp_path / "slow", curves, images=2000), quick=True)
    assert found.verdict.kind == "robust-overfitting"
    told = {each["name"]: each["supported"] for each in section(found, "Mechanism").data}
    assert told == {"memorisation": True, "decay": False}


def test_a_mere_log_has_a_timeline_too(tmp_path):
    curves = collapsing()
    frame = pd.DataFrame({"epoch": range(1, 21), "clean_acc": curves["clean"], "pgd_acc": curves["pgd10"]})
    frame["train_acc"] = [0.6] * 13 + [0.99] * 7
    frame.to_csv(tmp_path / "log.csv", index=False)
    found = co_probe.diagnose(tmp_path / "log.csv", images=1000, classes=10)
    assert found.verdict.kind == "catastrophic"
    lines = section(found, "Timeline").lines
    assert lines[0] == "first: robust accuracy itself (epoch 12), of what is known"
    assert "epoch 12: PGD accuracy fell from 60.0% to 2.0%" in lines
    assert "epoch 14: training accuracy rose from 60.0% to 99.0%, after robust accuracy" in lines
    assert json.dumps(found.to_dict()) and "### Timeline" in found.to_markdown()


def test_probes_around_the_collapse_are_measured_once_of_an_imported_run(tmp_path):
    run = synthetic_run(tmp_path / "imported", collapsing(), images=20)
    quick = co_probe.diagnose(run, quick=True)
    assert not run.probes() and "measured" not in str(section(quick, "Notes"))
    steps = []
    found = co_probe.diagnose(
        run.path, model=Nothing, device="cpu", progress=lambda _, done, todo: steps.append((done, todo))
    )
    assert {*PROBES, "masking"} == set(StoredRun(run.path).probes())
    measured = StoredRun(run.path).frame("local-linearity")["epoch"]
    assert (measured.min(), measured.max()) == (4, 20)
    assert "local linearity error" in str(section(found, "Timeline").lines[-1]), "this network never changes"
    count = len(steps)
    co_probe.diagnose(run.path, model=Nothing, device="cpu", progress=lambda _, done, todo: steps.append((done, todo)))
    assert len(steps) == count


def test_obstacles_to_measuring_are_reported(tmp_path, monkeypatch):
    run = synthetic_run(tmp_path / "foreign", collapsing(), images=20)
    found = co_probe.diagnose(run, device="cpu")
    assert any(line.startswith("not checked for masked gradients") for line in section(found, "Notes").lines)
    assert section(found, "Timeline") is not None


@pytest.mark.parametrize(("at", "told"), [(15.9, "before"), (16.2, "same"), (17, "same"), (17.1, "after")])
def test_changes_within_the_epoch_of_the_loss_are_in_the_same_epoch(at, told):
    assert relation(at, 17) == told and relation(at, None) == ""

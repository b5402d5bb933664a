"""Probes by name: settings without torch, stored rows by their settings, attacks as objects, several norm bounds."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import co_probe
from co_probe.attacks import PGD
from co_probe.cli.main import cli
from co_probe.config.labels import attack_label, attack_name
from co_probe.config.probes import PROBES
from co_probe.errors import UserError
from co_probe.probes.alignment import Alignment
from co_probe.runs.checkpoints import export
from co_probe.store import StoredRun


def without_torch(code: str) -> None:
    """Run Python code in a fresh process and fail if it imported torch."""
    code += "\nimport sys; sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_probe_object_is_accepted_in_place_of_a_name(trained, tmp_path):
    run = shutil.copytree(trained / "fgsm", tmp_path / "fgsm")
    frame = co_probe.probe(Alignment(split="train"), run, device="cpu")
    assert frame.equals(co_probe.probe("alignment", run, split="train", device="cpu")) and set(frame["epoch"]) == {
        1,
        2,
        3,
    }
    with pytest.raises(UserError, match="the probe alignment has its settings already: leave split out"):
        co_probe.probe(Alignment(), run, split="train")


def test_settings_of_every_probe_are_read_and_checked_without_torch(runs):
    co_probe.gap(runs / "fgsm", "pgd2", device="cpu")
    without_torch(
        f"""
import co_probe, dataclasses
from co_probe.config.probes import PROBES
from co_probe.errors import UserError
from co_probe.probes.named import make_probe
from co_probe.store import StoredRun
for name in PROBES:
    assert dataclasses.is_dataclass(make_probe(name))
try:
    make_probe("curvature", top=0)
except UserError as error:
    assert "greater than 0" in str(error)
run = StoredRun({str(runs / "fgsm")!r})
assert len(run.frame("gap", against="pgd2")) == 6
assert len(co_probe.gap(run, "pgd2")) == 6 and len(co_probe.probe("gap", run)) == 6
"""
    )


def test_listing_probes_does_not_import_torch():
    without_torch("import co_probe; from co_probe.probes import PROBES; assert 'gap' in list(PROBES)")


def test_a_frame_is_selected_by_settings_with_defaults_for_the_others(runs):
    run = co_probe.open_run(runs / "fgsm")
    for against in ("pgd2", "pgd3"):
        for generator in ("fgsm", "method"):
            co_probe.gap(run, against, generator=generator, device="cpu")
    assert len(run.frame("gap")) == 24
    frame = run.frame("gap", against="pgd3")
    assert set(frame["against"]) == {"pgd3"} and set(frame["generator"]) == {"fgsm"} and len(frame) == 6
    assert run.frame("gap", against="pgd9").empty
    with pytest.raises(UserError, match="unknown setting of probe gap 'againts': did you mean against"):
        run.frame("gap", againts="pgd3")


def test_all_diagnostics_are_probes_by_name(runs, tmp_path):
    export(co_probe.open_run(runs / "pgd"), 3, tmp_path / "ref.pt")
    for name, settings in (
        ("strength", {"reference": tmp_path / "ref.pt"}),
        ("eval", {"attacks": ["clean"], "images": 50}),
        ("memorisation", {"against": "pgd2"}),
    ):
        frame = co_probe.probe(name, [runs / "fgsm", co_probe.open_run(runs / "pgd")], device="cpu", **settings)
        assert set(frame["run"]) == {"fgsm", "pgd"} and set(frame["probe"]) == {name}
    assert {"gap", "strength", "eval", "memorisation", "alignment", "curvature", "spectrum", "views"} <= set(PROBES)
    run = StoredRun(runs / "fgsm")
    assert len(run.frame("strength", reference="ref.pt")) == len(run.frame("strength", generator="fgsm")) == 6
    assert run.frame("strength", reference="other.pt").empty


def replace_table(run, probe, frame):
    (run.path / "results.h5").unlink()
    run.add_rows(probe, frame)


def test_rows_that_were_stored_before_a_setting_existed_have_its_default(runs, monkeypatch):
    run = co_probe.open_run(runs / "fgsm")
    new = co_probe.gap(run, "pgd2", device="cpu")
    replace_table(run, "gap", run.frame("gap").drop(columns="epsilon"))
    monkeypatch.setattr(co_probe.Run, "models", lambda *_, **__: pytest.fail("what is stored was measured again"))
    old = co_probe.gap(run, "pgd2", device="cpu")
    pd.testing.assert_frame_equal(old[list(new)], new)
    monkeypatch.undo()
    other = co_probe.gap(run, "pgd2", epsilon=0.01, device="cpu")
    assert len(other) == 6 and len(run.frame("gap", against="pgd2")) == 6 and len(run.frame("gap")) == 12


def test_an_attack_object_is_accepted_and_identified_in_every_process(runs):
    attack = PGD(epsilon=8 / 255, steps=2, step_size=0.01)
    assert attack_name(attack) == "PGD(epsilon=8/255, step_size=0.01, steps=2)" == attack_label(attack_name(attack))
    run = co_probe.open_run(runs / "fgsm")
    frame = co_probe.gap(run, attack, device="cpu")
    assert set(frame["against"]) == {attack_name(attack)}
    assert len(run.frame("gap", against=attack)) == len(run.frame("gap", against=attack_name(attack))) == 6
    same = co_probe.gap(run, PGD(epsilon=run.epsilon, steps=2), device="cpu")
    np.testing.assert_allclose(same["value"], co_probe.gap(run, "pgd2", device="cpu")["value"])
    evaluated = co_probe.evaluate(run, ["clean", attack, "pgd2"], images=60, device="cpu").set_index("attack")["value"]
    assert evaluated[attack_name(attack)] >= evaluated["pgd2"]


def test_a_run_is_measured_at_other_norm_bounds(runs, tmp_path):
    run = co_probe.open_run(runs / "fgsm")
    frame = co_probe.gap(run, "pgd2", epsilon=[0.02, 0.3], device="cpu")
    accuracy = frame[frame["quantity"] == "accuracy"].groupby("epsilon")["value"].mean()
    assert list(accuracy.index) == [0.02, 0.3] and accuracy[0.02] > accuracy[0.3]
    assert len(run.frame("gap", against="pgd2", epsilon=0.3)) == 6 and run.frame("gap", against="pgd2").empty
    export(co_probe.open_run(runs / "pgd"), 3, tmp_path / "ref.pt")
    strength = co_probe.strength(run, tmp_path / "ref.pt", epsilon=(0.02, 0.6), device="cpu")
    noise = strength[strength["quantity"] == "sign-noise"].set_index("epsilon")["value"]
    assert noise[0.02] > noise[0.6]
    accuracies = co_probe.evaluate(run, ["pgd2"], images=60, epsilon=[0.02, 0.3], device="cpu")
    pgd = accuracies[accuracies["attack"] == "pgd2"].set_index("epsilon")["value"]
    assert pgd[0.02] > pgd[0.3]
    again = co_probe.evaluate(run, ["pgd2"], images=60, device="cpu")
    assert set(again["epsilon"]) == {run.epsilon}
    assert pgd[0.3] <= again.set_index("attack")["value"]["pgd2"] <= pgd[0.02]


def test_evaluations_stored_without_epsilon_have_that_of_the_run(runs, monkeypatch):
    run = co_probe.open_run(runs / "fgsm")
    first = co_probe.evaluate(run, ["pgd2"], images=60, device="cpu")
    replace_table(run, "eval-images", run.frame("eval-images").drop(columns="epsilon"))
    monkeypatch.setattr(PGD, "robust_mask_unchecked", lambda *_, **__: pytest.fail("what is stored was measured again"))
    pd.testing.assert_frame_equal(co_probe.evaluate(run, ["pgd2"], images=60, device="cpu"), first)
    monkeypatch.undo()
    co_probe.evaluate(run, ["pgd2"], images=60, epsilon=0.02, device="cpu")
    pd.testing.assert_frame_equal(co_probe.evaluate(run, ["pgd2"], images=60, device="cpu"), first)


def test_commands_take_norm_bounds(runs, tmp_path):
    def call(*arguments: object) -> str:
        result = CliRunner().invoke(cli, [*map(str, arguments), "--device", "cpu"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    table = call("gap", runs / "fgsm", "--against", "pgd2", "--epsilon", "4/255,8/255")
    assert "pgd2 at ε = 4/255" in table and "pgd2 at ε = 8/255" in table
    rows = json.loads(call("gap", runs / "fgsm", "--against", "pgd2", "--epsilon", "4/255", "--json"))
    assert {round(row["epsilon"], 6) for row in rows} == {round(4 / 255, 6)} and len(rows) == 6
    evaluated = call("eval", runs / "fgsm", "--attacks", "pgd2", "--images", "40", "--epsilon", "4/255, 0.2")
    lines = [line.split() for line in evaluated.splitlines() if line.split()[:1] == ["fgsm"]]
    assert [line[2] for line in lines] == ["4/255", "0.2"]
    export(co_probe.open_run(runs / "pgd"), 3, tmp_path / "ref.pt")
    strength = call("strength", runs / "fgsm", "--reference", tmp_path / "ref.pt", "--epsilon", "0.2")
    assert "by fgsm at ε = 0.2" in strength
    result = CliRunner().invoke(cli, ["gap", str(runs / "fgsm"), "--epsilon", "8/x"])
    assert result.exit_code == 2 and "'8/x' is not a number" in result.output
    with pytest.raises(UserError, match="8 is more than 1: did you mean 8/255"):
        co_probe.gap(runs / "fgsm", epsilon=8.0, device="cpu")


def test_epochs_are_chosen(runs):
    shutil.copytree(runs / "fgsm", runs / "copy")
    assert set(co_probe.probe("gap", runs / "copy", epochs="last", against="pgd2", device="cpu")["epoch"]) == {3}
    assert set(co_probe.probe("gap", runs / "copy", epochs=[1], against="pgd2", device="cpu")["epoch"]) == {1, 3}
    with pytest.raises(UserError, match="copy has no epoch 7; its last is 3"):
        co_probe.probe("gap", runs / "copy", epochs=7, against="pgd2", device="cpu")


def test_a_reference_is_an_epoch_of_a_run_or_a_module(runs, tmp_path):
    pgd = co_probe.open_run(runs / "pgd")
    export(pgd, 2, tmp_path / "ref.pt")
    frames = [
        co_probe.strength(runs / "fgsm", reference, device="cpu", check=False)  # a model at chance
        for reference in (tmp_path / "ref.pt", f"{runs / 'pgd'}@2", pgd.load_model(2))
    ]
    assert [set(frame["reference"]) for frame in frames[:2]] == [{"ref.pt"}, {"pgd@2"}]
    for frame in frames[1:]:
        np.testing.assert_array_equal(frame["value"], frames[0]["value"])
    assert len(StoredRun(runs / "fgsm").frame("strength", reference="pgd@2")) == 6
    arguments = ["strength", "fgsm", "--runs", str(runs), "--reference", "pgd@2", "--device", "cpu"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "Accuracy of pgd@2 on perturbations by fgsm" in result.output

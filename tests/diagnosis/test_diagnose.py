"""The diagnosis of runs and logs, in Python and on the command line."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import co_probe
from co_probe.cli.main import main
from co_probe.diagnosis.advice import BY_KIND, advice_for
from co_probe.diagnosis.diagnose import diagnose_all
from co_probe.diagnosis.key_epochs import key_epochs
from co_probe.diagnosis.stored import curves_of, verdict_of
from co_probe.diagnosis.verdict import KINDS, OVERFITTED, verdict
from co_probe.errors import UserError
from co_probe.reporting.drawing import spans_of
from co_probe.store import StoredRun

COLLAPSE = {
    "clean": [0.3, 0.4, 0.5, 0.55, 0.65, 0.75, 0.8],
    "fgsm": [0.25, 0.3, 0.35, 0.4, 0.7, 0.85, 0.9],
    "pgd": [0.25, 0.29, 0.33, 0.36, 0.06, 0.0, 0.01],
}


@pytest.fixture
def log(tmp_path):
    """A CSV log of a collapse, in percent and with unusual names."""
    path = tmp_path / "curves.csv"
    frame = pd.DataFrame(COLLAPSE).mul(100).set_axis(["val_acc", "single", "multi"], axis="columns")
    frame.to_csv(path, index=False)
    return path


def call(capsys, *arguments):
    """The command line in this process: (exit code, standard output, standard error)."""
    with pytest.raises(SystemExit) as exit:
        main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return exit.value.code, out, err


def test_a_log_in_python(log):
    columns = {"pgd": "multi", "fgsm": "single"}
    found = co_probe.diagnose(log, columns=columns, images=10000, classes=10)
    assert found.verdict == verdict(**COLLAPSE, n=10000, classes=10)
    assert found.name == "curves.csv" and found.verdict.onset == 5
    assert [section.title for section in found.sections] == [
        "Episodes",
        "Timeline",
        "Mechanism",
        "Notes",
        "What to try next",
    ]
    text = str(found)
    assert "10,000 test images of 10 classes" in text and "fgsm from single" in text
    assert "epochs 5 to 7 (the end of the log): PGD fell from 33.0% to 0.0%" in text
    assert found.curves["pgd"].tolist() == pytest.approx(COLLAPSE["pgd"])


def test_frames_and_mappings():
    assert co_probe.diagnose(COLLAPSE).verdict == co_probe.diagnose(pd.DataFrame(COLLAPSE)).verdict
    assert "an assumed 1,000 test images of an unknown number of classes" in co_probe.diagnose(COLLAPSE).basis


def test_accuracy_on_training_images_replaces_a_missing_training_attack():
    curves = {"clean": COLLAPSE["clean"], "train": COLLAPSE["fgsm"], "pgd": COLLAPSE["pgd"]}
    found = co_probe.diagnose(curves)
    assert found.verdict.episodes == co_probe.diagnose(COLLAPSE).verdict.episodes
    assert "the training attack is judged on training images (train)" in str(found)


def test_json_has_no_nan_and_all_sections():
    data = co_probe.diagnose({"pgd": [None, None], "clean": [0.5, 0.6], "fgsm": [0.1, 0.1]}, columns={"pgd": "fgsm"})
    assert json.loads(json.dumps(data.to_dict(), allow_nan=False))["kind"] == "undecided"
    found = co_probe.diagnose(COLLAPSE).to_dict()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert found["episodes"][0]["start"] == 5 and found["episodes"][0]["end"] is None
    assert found["episodes"][0]["means"]["fgsm"] == pytest.approx(np.mean(COLLAPSE["fgsm"][4:]))
    assert {advice["source"] for advice in found["what_to_try_next"]} >= {"de Jorge et al. 2022", "Li et al. 2020"}


def test_a_log_of_several_runs_is_refused_in_python_and_diagnosed_on_the_command_line(tmp_path, capsys):
    frame = pd.concat([pd.DataFrame(COLLAPSE).assign(run=name) for name in ("a", "b")])
    with pytest.raises(UserError, match=r"2 runs \(a, b, ...\)"):
        co_probe.diagnose(frame)
    frame.to_csv(tmp_path / "log.csv", index=False)
    code, out, _ = call(capsys, "diagnose", tmp_path / "log.csv")
    assert code == 0 and out.count("What to try next") == 2 and "\n2 runs" in out
    frame = pd.concat([pd.DataFrame(COLLAPSE).assign(run=name) for name in "abcdef"])
    frame.to_csv(tmp_path / "log.csv", index=False)
    _, out, _ = call(capsys, "diagnose", tmp_path / "log.csv")
    assert "What to try next" not in out and out.count("catastrophic overfitting from epoch 5") == 6


def test_the_command_line_prints_text_json_and_markdown(log, capsys):
    arguments = ("diagnose", log, "--columns", "pgd=multi,fgsm=single", "--classes", "10")
    code, out, err = call(capsys, *arguments)
    assert code == 0 and not err
    assert out.startswith("The verdict depends on the number of test images (--images)")
    assert "\ncurves.csv: catastrophic overfitting from epoch 5\n" in out
    assert "Notes\n- accuracies are read as percentages" in out and "--images" in out
    assert max(map(len, out.splitlines())) <= 110
    _, out, _ = call(capsys, *arguments, "--images", "500", "--json")
    assert [entry["images"] for entry in json.loads(out)] == [500]
    _, out, _ = call(capsys, *arguments, "--markdown")
    assert out.startswith(
        "## curves.csv: catastrophic overfitting from epoch 5\n\nCatastrophic overfitting from epoch 5:"
    )
    assert "### What to try next\n\n- Use the checkpoint of epoch 4 (36.0% under PGD" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no column is named like accuracy under PGD; name it as columns 'pgd=NAME'"),
        (["--columns", "multi"], "--columns multi: write CURVE=NAME"),
        (["--columns", "pgd=mutli"], "did you mean multi"),
    ],
)
def test_wrong_input_is_answered_in_one_line(log, capsys, arguments, message):
    code, out, err = call(capsys, "diagnose", log, *arguments)
    assert code == 2 and not out and message in err and err.count("\n") == 1


def test_images_and_classes_are_checked():
    with pytest.raises(UserError, match="images=0"):
        co_probe.diagnose(COLLAPSE, images=0)
    with pytest.raises(UserError, match="classes=1"):
        co_probe.diagnose(COLLAPSE, classes=1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_advice(kind):
    assert BY_KIND[kind]
    assert all(each.url.startswith("https://") == bool(each.source) for each in BY_KIND[kind])


def test_advice_for_a_run_that_overfits_to_fgsm_from_the_start_names_other_methods():
    clean = [0.5 + 0.03 * epoch for epoch in range(10)]
    overfitted = verdict(clean=clean, fgsm=clean, pgd=[0.01] * 10, classes=10)
    weak = verdict(clean=clean, fgsm=[0.02] * 10, pgd=[0.01] * 10, classes=10)
    assert overfitted.kind == weak.kind == "never-robust"
    assert overfitted.reasons == (OVERFITTED,) and weak.reasons == ()
    assert "N-FGSM" in advice_for(overfitted)[1].text and "units of ε" in advice_for(overfitted)[-2].text
    assert not any("N-FGSM" in each.text for each in advice_for(weak))


def test_columns_that_are_not_read_are_named():
    more = {f"lr{number}": [0.1] * 7 for number in range(10)}
    assert co_probe.diagnose({**COLLAPSE, "lr": [0.1] * 7, "run": ["a"] * 7}).basis.endswith(
        "pgd from pgd. Not read: lr."
    )
    assert "Not read" not in co_probe.diagnose(COLLAPSE).basis
    assert co_probe.diagnose({**COLLAPSE, **more}).basis.endswith("lr6, lr7 and 2 more.")


def test_the_best_checkpoint_is_the_first_advice_after_a_fall_only():
    assert "epoch 4" in advice_for(verdict(**COLLAPSE))[0].text
    healthy = verdict(clean=COLLAPSE["clean"], pgd=COLLAPSE["clean"])
    assert not any("checkpoint" in each.text for each in advice_for(healthy))


def stored(metrics, *, attack="fgsm", classes=("a",) * 10, images=200):
    """What the diagnosis asks of a stored run, with these metrics {name: values}."""
    epochs = list(range(1, 1 + max(map(len, metrics.values()), default=0)))
    return SimpleNamespace(
        epochs=epochs,
        last_epoch=len(epochs),
        epsilon=0.1,
        frame=lambda probe: pd.DataFrame(),
        chosen_on="test",
        stopped=0,
        probe_set={"test": np.arange(images)},
        info=SimpleNamespace(attack=attack, classes=classes),
        metrics=lambda epoch: {name: values[epoch - 1] for name, values in metrics.items()},
    )


def test_a_run_is_diagnosed_by_its_attack_on_its_images():
    metrics = {
        "clean": COLLAPSE["clean"],
        "train_attack": COLLAPSE["fgsm"],
        "fgsm": COLLAPSE["pgd"],
        "pgd10": COLLAPSE["pgd"],
    }
    assert verdict_of(stored(metrics)) == verdict(**COLLAPSE, n=200, classes=10)
    assert verdict_of(stored(metrics, images=25)).kind == verdict(**COLLAPSE, n=25, classes=10).kind != "healthy"


def test_fgsm_replaces_the_unknown_attack_of_an_imported_run():
    metrics = {"clean": COLLAPSE["clean"], "fgsm": COLLAPSE["fgsm"], "pgd10": COLLAPSE["pgd"]}
    assert verdict_of(stored(metrics, attack=None)) == verdict(**COLLAPSE, n=200, classes=10)


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({}, "no epoch is finished yet"),
        ({"clean": [0.5, 0.6]}, "no accuracy under PGD-10 is stored"),
        ({"train_loss": [2.0, 1.0]}, "no accuracy under PGD-10 is stored"),
    ],
)
def test_a_run_without_the_metrics(metrics, reason):
    found = verdict_of(stored(metrics))
    assert found.kind == "undecided" and found.reasons == (reason,) and reason in found.summary()
    assert len(curves_of(stored(metrics))) == len(next(iter(metrics.values()), []))


@pytest.mark.parametrize("attack", ["standard", None])
def test_clean_training_was_never_robust(attack):
    metrics = {
        "clean": COLLAPSE["clean"],
        "train_attack": COLLAPSE["clean"],
        "fgsm": COLLAPSE["pgd"],
        "pgd10": COLLAPSE["pgd"],
    }
    found = verdict_of(stored(metrics, attack=attack))
    assert (found.kind, found.episodes, found.onset) == ("never-robust", [], None)
    assert "trained on clean images" in found.summary() and "1.0% at epoch 7" in found.summary()


def test_trained_runs(trained, capsys):
    run = StoredRun(trained / "fgsm")
    found = co_probe.diagnose(run, quick=True)
    assert found.verdict == co_probe.diagnose(trained / "fgsm", quick=True).verdict == verdict_of(run)
    assert found.images == 40 and found.classes == 10 and "40 test images of 10 classes" in str(found)
    with pytest.raises(UserError, match="columns are for logs"):
        co_probe.diagnose(run, columns={"pgd": "pgd10"})
    assert len(diagnose_all([trained / "fgsm", COLLAPSE], quick=True)) == 2
    code, out, _ = call(capsys, "diagnose", "fgsm", "--runs", trained, "--quick")
    assert code == 0 and out.startswith("fgsm: undecided") and "--images" not in out
    _, out, _ = call(capsys, "diagnose", "--runs", trained, "--quick", "--json")
    assert {entry["name"] for entry in json.loads(out)} == {"apart", "apart-simple", "fgsm", "pgd"}


def test_a_table_of_a_run_is_a_log_too(trained):
    run = StoredRun(trained / "fgsm")
    found = co_probe.diagnose(run.frame("metrics"), classes=10)
    assert found.images == 40 and found.verdict == verdict_of(run)


@pytest.mark.parametrize(
    ("pgd", "expected"),
    [
        (COLLAPSE["pgd"], [4, 7]),
        ([*COLLAPSE["pgd"], 0.35, 0.36, 0.37], [4, 6, 10]),  # recovered: within the episode, and after it
        ([0.25, 0.3, 0.35, 0.36, 0.35, 0.34, 0.33], [4, 7]),
    ],
)
def test_key_epochs_are_before_in_and_after_a_collapse(pgd, expected):
    count = len(pgd)
    curves = {name: [*values, *[0.6] * 3][:count] for name, values in COLLAPSE.items()}
    run = stored({"clean": curves["clean"], "train_attack": curves["fgsm"], "pgd10": pgd}, images=2000)
    run.best_epoch = 1 + int(np.argmax(pgd))
    assert key_epochs(run) == expected


def test_an_episode_without_an_end_is_drawn_to_the_last_epoch():
    metrics = {"clean": COLLAPSE["clean"], "train_attack": COLLAPSE["fgsm"], "pgd10": COLLAPSE["pgd"]}
    assert spans_of(stored(metrics)) == [(5, 7)]
    assert spans_of(stored({})) == []

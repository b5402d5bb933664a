"""The script of the CIFAR-10 reproduction, in pieces, on images that mean nothing."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "analyses" / "reproduce_cifar10.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("reproduce_cifar10", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FIGURES", 0.0)
    return module


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """A folder of 48 images of noise, and a network that learns them in no time."""
    monkeypatch.setenv("CO_PROBE_DATA", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in "abcd":
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    small = ["--limit", "16", "--width", "8", "--epochs", "1", "--device", "cpu"]
    return ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *small]


def test_a_piece_stops_in_time_and_the_next_one_continues(script, arguments, tmp_path, monkeypatch, capsys):
    assert script.main([*arguments, "--parts", "main", "--minutes", "0"]) == 3
    assert "no part yet. The same command goes on with main" in capsys.readouterr().out
    assert not (tmp_path / "out" / "metrics.csv").exists()

    with monkeypatch.context() as after_two:  # two runs are trained, and the time is over
        train, trained = script.Reproduction.train, []

        def trains(self, path, config):
            if len(trained) == 2:
                raise script.OutOfTime
            trained.append(path.name)
            train(self, path, config)

        after_two.setattr(script.Reproduction, "train", trains)
        assert script.main([*arguments, "--parts", "main"]) == 3
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert summary["run"].tolist() == trained == ["fgsm", "apart-simple"]
    weights = (tmp_path / "runs" / "fgsm" / "epoch-0001.h5").read_bytes()

    assert script.main([*arguments, "--parts", "main,long"]) == 0
    assert (tmp_path / "runs" / "fgsm" / "epoch-0001.h5").read_bytes() == weights
    out = tmp_path / "out"
    names = {"deterioration", "indicators", "gap-pgd10", "gap-pgd20", "perturbations", "steps"}
    assert {p.stem for p in out.glob("main-*.png")} == {f"main-{name}" for name in names}
    assert (out / "long-robust-overfitting.png").exists()
    assert set(pd.read_csv(out / "gap.csv")["against"]) == {"pgd10", "pgd20"}
    strength = pd.read_csv(out / "strength.csv")
    assert set(strength["reference"]) == {"pgd10_ep1.pt"} and len(strength["run"].unique()) == 4
    summary = pd.read_csv(out / "summary.csv").set_index("run")
    assert summary["of"].to_dict() == {"fgsm": 1, "apart-simple": 1, "apart": 1, "pgd": 1, "pgd-200": 2, "apart-200": 2}
    about = json.loads((out / "environment.json").read_text())
    assert len(about["commands"]) == 3 and about["runs"]["pgd"]["precision"] == "float32"
    assert about["title"] == "TRIAL, NO RESULT (limit 16, width 8, epochs 1): CIFAR-10 (JPEG)"


def test_attacks_are_on_the_last_models(script, arguments, tmp_path, monkeypatch, brief):
    monkeypatch.setattr(script, "MAIN", ("fgsm",))
    monkeypatch.setattr(script, "MORE", ())
    monkeypatch.setattr(script, "ATTACKS", ("clean", "pgd2"))
    assert script.main([*arguments, "--parts", "autoattack", "--aa-images", "2"]) == 0
    table = pd.read_csv(tmp_path / "out" / "eval.csv").set_index("attack")
    assert table["n"].to_dict()["aa"] == 2 and table["n"].to_dict()["pgd2"] == 16


@pytest.mark.parametrize(
    ("changed", "words"),
    [(["--parts", "mian"], "unknown part 'mian'"), (["--out"], "expected one argument")],
)
def test_wrong_arguments(script, arguments, changed, words, capsys):
    with pytest.raises(SystemExit) as exit:
        script.main([*arguments, *changed])
    assert exit.value.code == 2 and words in capsys.readouterr().err


def test_a_trial_must_not_land_among_the_figures(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--data", "x", "--limit", "5"])
    assert "a trial needs an --out of its own" in capsys.readouterr().err


def test_an_invalid_folder_is_refused_in_one_line(script, arguments, capsys):
    assert script.main([*arguments[2:], "--data", "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err

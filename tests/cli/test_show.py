"""What `co-probe show` prints of runs with, and without, the usual metrics."""

from pathlib import Path

import numpy as np
import pytest
from children import info_of, probe_images
from click.testing import CliRunner
from conftest import tiny_config

from co_probe.cli.main import cli, main
from co_probe.store import RunWriter, StoredRun

COLLAPSE = {
    "clean": [0.3, 0.4, 0.5, 0.55, 0.65, 0.75, 0.8],
    "train_attack": [0.25, 0.3, 0.35, 0.4, 0.7, 0.85, 0.9],
    "pgd10": [0.25, 0.29, 0.33, 0.36, 0.0, 0.0, 0.0],
}


@pytest.fixture
def shown(tmp_path, capsys):
    """A function that writes a run with these metrics {name: one value per epoch} and shows it."""

    def show(metrics, *names, **facts):
        info = info_of(tiny_config("fgsm"), **{"planned": 7, **facts})
        with RunWriter(tmp_path / "runs" / "fgsm", info, {"test": probe_images(200)}, {}) as writer:
            for epoch in range(1, 8):
                known = {name: values[epoch - 1] for name, values in metrics.items()}
                model = {"w": np.zeros(1, np.float32)}
                writer.commit(epoch, {"metrics": known, "model": model, "method": {}, "images": {}}, None)
        with pytest.raises(SystemExit) as exit:
            main(["show", *names, "--runs", str(tmp_path / "runs")])
        assert exit.value.code == 0
        return capsys.readouterr().out

    return show


def test_epochs_of_an_episode_are_marked(shown):
    out = shown(COLLAPSE, "fgsm")
    marked = [line.split()[1] for line in out.splitlines() if line.strip().startswith("collapsed")]
    assert marked == ["5", "6", "7"]
    assert out.endswith("Verdict: catastrophic overfitting from epoch 5.\n")


def test_the_list_has_best_and_last_accuracy_and_the_verdict(shown):
    (line,) = [line for line in shown(COLLAPSE, planned=9).splitlines() if line.strip().startswith("fgsm")]
    assert "7/9" in line and "36.0%" in line and " 0.0%" in line
    assert line.rstrip().endswith("catastrophic overfitting from epoch 5, so far")


@pytest.mark.parametrize("names", [[], ["fgsm"]])
def test_a_run_without_metrics_is_shown(shown, names):
    out = shown({}, *names, settings=None, seed=None, attack=None)
    assert "undecided: no accuracy under PGD-10 is stored" in out and "nan" not in out and "None" not in out


FALLEN = {"clean": 0.9, "fgsm": 0.8, "train_attack": 0.8, "pgd10": 0.0, "gap": 5.0}
STANDING = FALLEN | {"pgd10": 0.5, "gap": 0.1}


def run_show(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, ["show", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def write(path: Path, metrics: list[dict[str, float]], **about) -> Path:
    """A run with these metrics, one dict per epoch."""
    info = info_of(tiny_config("fgsm"), settings=None, planned=len(metrics), **about)
    with RunWriter(path, info, {"test": probe_images(40)}, {}) as writer:
        for epoch, values in enumerate(metrics, 1):
            content = {"model": {"w": np.zeros(2)}, "metrics": values, "method": {}, "images": {}}
            writer.commit(epoch, content, None)
    return path


def test_the_list_fits_100_columns_and_names_once_what_runs_share(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the title names the folder, however long
    write(tmp_path / "fgsm", [STANDING] * 6 + [FALLEN] * 4, method="fgsm")
    write(tmp_path / "a-name-as-long-as-those-of-sweeps-eps8of255-beta4of255-seed0", [STANDING] * 8, method="pgd")
    write(tmp_path / "imported", [{}] * 3, method="somebody's method with a long title", seed=None)
    lines = run_show("--runs", ".").splitlines()
    assert max(map(len, lines)) <= 100 and "nan" not in "".join(lines).lower()
    assert "data digits" in lines[0] and "ε 0.14" in lines[0]
    fgsm = next(line for line in lines if line.strip().startswith("fgsm"))
    assert "10/10" in fgsm and "50.0%" in fgsm and "0.0%" in fgsm
    imported = next(line for line in lines if line.strip().startswith("imported"))
    assert "3/3" in imported and "%" not in imported


def test_a_run_with_some_metrics_shows_those(tmp_path):
    text = run_show(write(tmp_path / "run", [{"train_accuracy": 0.3}, STANDING, {}, FALLEN]))
    assert "30.0%" in text and "PGD-10" in text and "train loss" not in text and "nan" not in text.lower()
    frame = StoredRun(tmp_path / "run").frame("metrics")
    assert frame["value"].notna().all() and frame["low"].notna().all() and set(frame["epoch"]) == {1, 2, 4}


def test_epochs_of_a_trained_run(trained):
    text = run_show(trained / "apart")
    assert "apart: apart on digits, ε = 0.14, seed 0" in text and max(map(len, text.splitlines())) <= 100
    assert [line.split()[0] for line in text.splitlines() if line.strip()[:1].isdigit()] == ["1", "2", "3"]

"""What `co-probe show` prints of runs with, and without, the usual metrics."""

import numpy as np
import pytest
from children import info_of, probe_images
from conftest import tiny_config

from co_probe.cli.main import main
from co_probe.store import RunWriter

COLLAPSE = {
    "clean": [0.3, 0.4, 0.5, 0.55, 0.65, 0.75, 0.8],
    "own": [0.25, 0.3, 0.35, 0.4, 0.7, 0.85, 0.9],
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

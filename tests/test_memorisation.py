"""What a run memorises, in which phases, and what wider models do with it."""

import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import TINY

import co_probe
from co_probe.cli.main import cli, main
from co_probe.errors import UserError
from co_probe.reporting.drawing import draw
from co_probe.studies.memorisation.attack import Shrink
from co_probe.studies.memorisation.capacity_figure import capacity
from co_probe.studies.memorisation.phases import memorisation_phases
from co_probe.studies.memorisation.phases_figure import boundaries
from co_probe.studies.memorisation.signal import find_signal
from co_probe.sweeps.grid import Grid, parse_variation


@pytest.fixture
def run(memorising, tmp_path):
    """The memorising run, to be written to."""
    return co_probe.open_run(shutil.copytree(memorising, tmp_path / "shrink"))


@pytest.fixture
def frame(run) -> pd.DataFrame:
    return co_probe.memorisation(run, device="cpu")


def value(frame: pd.DataFrame, epoch: int, quantity: str, view: str = "", images: str = "") -> pd.Series:
    at = (frame["epoch"] == epoch) & (frame["quantity"] == quantity)
    return frame[at & (frame["view"] == view) & (frame["images"] == images)].squeeze()


def test_components_are_those_of_the_definition(run, frame):
    found = find_signal(run.data.train_x, run.data.train_y)
    w, filters = found[0].numpy(), run.weights(10)["filters"]
    signal = [max(-(filters[0] @ w)), max(filters[1] @ w)]
    row = value(frame, 10, "signal")
    assert (row["low"], row["high"], row["n"]) == (pytest.approx(min(signal)), pytest.approx(max(signal)), 2)
    assert row["value"] == pytest.approx(np.mean(signal))

    x, y = run.data.train_x[..., 0].transpose(1, 2).numpy(), run.data.train_y.numpy()
    noise = []
    for patches, label in zip(x, y, strict=True):
        place = np.abs(patches @ w).argmax()
        noise.append(max(f @ p for j, p in enumerate(patches) for f in filters[label] if j != place))
    row = value(frame, 10, "noise")
    assert (row["low"], row["high"], row["n"]) == (pytest.approx(min(noise)), pytest.approx(max(noise)), 8)
    assert row["value"] == pytest.approx(np.mean(noise))
    assert value(frame, 10, "step")["value"] == 250  # 25 steps an epoch


def test_accuracies_and_losses_are_the_models(run, frame):
    model = run.load_model(12)
    for images, (x, y) in (("train", run.train_data()), ("test", run.test_data())):
        for view, delta in (("clean", 0), ("robust", Shrink(epsilon=9.6)(model, x, y))):
            logits = model(x + delta)
            correct = (logits.argmax(1) == y).double().mean().item()
            margin = (2 * y - 1) * (logits[:, 1] - logits[:, 0])
            loss = torch.log1p(torch.exp(-margin)).mean().item()
            row = value(frame, 12, "accuracy", view, images)
            assert (row["value"], row["n"]) == (pytest.approx(correct), len(y))
            assert row["low"] <= row["value"] <= row["high"]
            assert value(frame, 12, "loss", view, images)["value"] == pytest.approx(loss)


def test_the_run_memorises_in_three_phases(run, frame):
    last = run.last_epoch
    assert value(frame, last, "accuracy", "clean", "train")["value"] == 1
    assert value(frame, last, "accuracy", "robust", "train")["value"] == 1
    assert value(frame, last, "accuracy", "robust", "test")["value"] < 0.75
    second, third = boundaries(frame)
    assert 0 < second < third < 600 and second % 25 == third % 25 == 0
    noise = {epoch: value(frame, epoch, "noise")["value"] for epoch in run.epochs}
    rise = {25 * e: (noise[e] - noise[1]) / (noise[last] - noise[1]) for e in run.epochs}
    assert rise[second - 25] < 0.1 <= rise[second] and rise[third - 25] < 0.9 <= rise[third]


def test_phases_of_numbers():
    noise, robust = [0.0, 0.05, 0.2, 0.08, 0.5, 0.95, 1.0], [0.5] * 6 + [1.0]
    # The tenth is there for good only after the dip.
    assert memorisation_phases([0.1] * 7, noise, robust) == (4, 5)
    assert memorisation_phases([0.1] * 6 + [1.1], noise, robust) is None, "the signal has won"
    assert memorisation_phases([0.1] * 7, noise, [1.0] * 6 + [0.98]) is None, "the training images are not fitted"
    assert memorisation_phases([-1.0] * 3, [1.0] * 3, [1.0] * 3) is None, "nothing grew"
    assert memorisation_phases([], [], []) is None
    with pytest.raises(ValueError, match="one number for each epoch"):
        memorisation_phases([1], [1, 2], [1, 2])


def test_a_run_without_attack_on_the_signal_does_not_memorise(tmp_path):
    from conftest import memorising_config

    from co_probe.training.loop import epochs

    list(epochs(memorising_config(epsilon=2.0), tmp_path / "easy", device="cpu"))
    frame = co_probe.memorisation(tmp_path / "easy", device="cpu")
    assert boundaries(frame) == []
    assert value(frame, 24, "accuracy", "robust", "test")["value"] == 1
    assert value(frame, 24, "signal")["value"] > value(frame, 24, "noise")["value"]
    figure = draw("phases", [co_probe.open_run(tmp_path / "easy")], device="cpu")
    assert "no robust memorisation" in figure.legends[0].get_title().get_text()


def test_images_without_a_known_signal_have_accuracies_and_losses_only(runs):
    frame = co_probe.memorisation(runs / "fgsm", "pgd10", device="cpu")
    assert set(frame["quantity"]) == {"accuracy", "loss"} and set(frame["against"]) == {"pgd10"}
    metrics = co_probe.open_run(runs / "fgsm").metrics(3)
    for view, name in (("clean", "clean"), ("robust", "pgd10")):
        assert value(frame, 3, "accuracy", view, "test")["value"] == pytest.approx(metrics[name])
    with pytest.raises(UserError, match="has no signal and noise components"):
        draw("phases", [co_probe.open_run(runs / "fgsm")])


def test_apart_is_measured_on_training_images_with_their_learned_initialisation(runs, monkeypatch):
    with_state = co_probe.memorisation(runs / "apart", device="cpu")
    (runs / "apart" / "results.h5").unlink()
    monkeypatch.setattr(co_probe.Run, "image_state", lambda self, epoch: None)
    without = co_probe.memorisation(runs / "apart", device="cpu")
    losses = [
        [value(f, epoch, "loss", "robust", images)["value"] for epoch in (1, 2, 3)]
        for images in ("train", "test")
        for f in (with_state, without)
    ]
    assert losses[0] != losses[1] and losses[2] == losses[3]


def test_the_last_epoch_can_be_measured_before_the_others(runs):
    frame = co_probe.memorisation(runs / "pgd", "pgd10", last=True, device="cpu")
    assert set(frame["epoch"]) == {3}
    assert set(co_probe.memorisation(runs / "pgd", "pgd10", device="cpu")["epoch"]) == {1, 2, 3}


def test_capacity_shows_the_mean_over_the_runs_of_a_width():
    rows = [
        {"quantity": "accuracy", "view": view, "images": images, "epoch": 9, "width": width, "value": v, "run": f"{v}"}
        for width, values in ((4, (0.2, 0.4)), (16, (0.6, 0.6)))
        for v in values
        for view in ("clean", "robust")
        for images in ("train", "test")
    ]
    ax = capacity(pd.DataFrame(rows))
    lines = {container.get_label(): list(container.lines[0].get_ydata()) for container in ax.containers}
    assert set(lines) == {"clean, train", "clean, test", "robust, train", "robust, test"}
    assert lines["robust, test"] == pytest.approx([30, 60])
    assert [float(t) for t in ax.get_xticks()] == [4, 16]


# -- sweeps --------------------------------------------------------------------------------------------------------


def test_a_sweep_varies_any_setting(tmp_path):
    vary = {"model.width": [8, 9], "optimizer.learning_rate": [0.1]}
    cells = Grid(methods=("fgsm",), seeds=(0, 1), settings=TINY, vary=vary).cells(tmp_path)
    names = [f"fgsm-eps0.14-seed{s}-width{w}-learning_rate0.1" for s in (0, 1) for w in (8, 9)]
    assert [path.name for path in cells] == names
    assert [c.model.settings["width"] for c in cells.values()] == [8, 9, 8, 9]


def test_variations_are_read_from_the_command_line_and_from_files(tmp_path):
    assert parse_variation("model.width=4, 8") == {"model.width": [4, 8]}
    assert parse_variation("schedule.name=constant,linear") == {"schedule.name": ["constant", "linear"]}
    file = tmp_path / "widths.toml"
    file.write_text('methods = ["fgsm"]\n[vary]\n"model.width" = [8, 16]\n')
    result = CliRunner().invoke(cli, ["sweep", str(file), "--vary", "epochs=2,3", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "fgsm-eps0.15-seed0-width16-epochs3: 3 epochs" in result.output and len(result.output.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--vary", "model.width"],
            "give a varying setting as key=value,value, for example model.width=8,16, not 'model.width'",
        ),
        (["--vary", "model.width=8,8"], "the sweep needs values of model.width, each once"),
    ],
)
def test_a_variation_that_cannot_be_used_is_refused(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", "--methods", "fgsm", "--out", str(tmp_path), "--dry-run", *arguments])
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert stopped.value.code == 2
    (tmp_path / "f.toml").write_text('methods = ["fgsm"]\n[vary]\n"model.width" = 8\n')
    with pytest.raises(UserError, match="vary is a table of lists"):
        Grid.from_toml(tmp_path / "f.toml")


# -- command line --------------------------------------------------------------------------------------------------


def test_the_command_prints_a_line_an_epoch(run, runs, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["memorisation", str(run.path), "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "shrink; robust: under its own attack"
    assert lines[2].split()[:6] == ["epoch", "step", "signal", "noise", "clean", "train"]
    assert any(line.split()[:2] == ["24", "600"] for line in lines)
    with pytest.raises(SystemExit, match="0"):
        main(["memorisation", str(runs / "fgsm"), "--against", "pgd20", "--last", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fgsm; robust: under PGD-20" and "signal" not in lines[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memorisation", "RUN", "--against", "foo"], "unknown attack 'foo'"),
        (["memorisation", "RUN", "--against", "aa"], "AutoAttack keeps images within [0, 1], and these data do not"),
        (["plot", "perturbations", "RUN"], "has perturbations in an L2 ball"),
        (["plot", "phase", "RUN"], "unknown figure 'phase': did you mean phases"),
        (["plot", "phases", "OTHER"], "has no signal and noise components"),
    ],
)
def test_limits_of_the_command_are_reported_in_one_line(arguments, message, run, runs, capsys):
    paths = {"RUN": str(run.path), "OTHER": str(runs / "pgd")}
    with pytest.raises(SystemExit, match="2"):
        main([paths.get(a, a) for a in arguments])
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_speed_setting_is_built(tmp_path):
    """N = 200, d = 50, P = 10, width 100: one kept epoch of it."""
    from co_probe.config.presets import configure
    from co_probe.training.loop import epochs

    sizes = {"data": {"train": 200, "dimension": 50, "patches": 10, "test": 50}, "model": {"width": 100}}
    config = configure("patches", "shrink", {**sizes, "epochs": 2, "batch_size": 200, "method": {"replays": 2}})
    (metrics,) = epochs(config, tmp_path / "run", device="cpu")
    assert math.isfinite(metrics.train_loss)

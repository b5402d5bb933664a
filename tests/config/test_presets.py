"""The presets say what the paper says, print as TOML, and serve again from a file."""

import tomllib
from pathlib import Path

import pytest
import torch
from conftest import tiny_config

from co_probe.cli.main import main
from co_probe.config import Config, presets
from co_probe.config.presets import configure
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.methods.fgsm import FGSM
from co_probe.training.loop import epochs
from co_probe.training.schedules import SCHEDULES, warmup

# data, model, epochs, peak learning rate, schedule, epochs of ε warm-up
PAPER = {
    "cifar10": ("cifar10", "preact_resnet18", 60, 0.2, "triangular", 0),
    "cifar10-apart": ("cifar10", "preact_resnet18", 60, 0.2, "triangular", 0),
    "cifar10-30": ("cifar10", "preact_resnet18", 30, 0.2, "triangular", 0),
    "cifar10-200": ("cifar10", "preact_resnet18", 200, 0.1, "piecewise", 0),
    "cifar10-wrn": ("cifar10", "wide_resnet34_10", 60, 0.2, "triangular", 0),
    "cifar100": ("cifar100", "preact_resnet18", 60, 0.2, "triangular", 0),
    "svhn": ("svhn", "preact_resnet18", 60, 0.05, "triangular", 5),
}


@pytest.mark.parametrize("name", PAPER)
def test_settings_are_the_papers(name):
    config = configure(name, "apart")
    got = (
        config.data.name,
        config.model.name,
        config.epochs,
        config.optimizer.learning_rate,
        config.schedule.name,
        config.epsilon_warmup,
    )
    assert got == PAPER[name]
    assert config.epsilon == 8 / 255 and config.batch_size == 128
    assert config.optimizer.momentum == 0.9
    assert config.optimizer.weight_decay == (2e-4 if name == "cifar10-apart" else 5e-4)
    assert config.augmentation.padding == 4 and config.augmentation.flip == (name != "svhn")
    assert config.method.settings == {"raw_penalty": 200, "raw_rate": 5e-8}


def test_cifar10_200_drops_after_epochs_100_and_150():
    config = configure("cifar10-200", "fgsm")
    schedule = SCHEDULES.make(config.schedule.name, **config.schedule.settings)
    rates = [config.optimizer.learning_rate * schedule((epoch - 0.5) / 200) for epoch in (1, 100, 101, 150, 151, 200)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_every_preset_is_known_and_makes_every_method():
    assert set(presets.names()) == {"cifar10-small", "digits", "imagenet", "patches", *PAPER}
    for name in presets.names():
        assert presets.summary(name) and not presets.summary(name).startswith("#")
        for method in METHODS:
            config = configure(name, method)
            norm = METHODS.load(method).norms[0]
            assert METHODS.make(method, norm=norm, **config.method.settings).norm == norm


@pytest.mark.parametrize("name", ["cifar10-small", "digits", "imagenet", "patches", *PAPER])
def test_the_output_of_preset_show_is_a_valid_preset(name, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["preset", "show", name])
    printed = capsys.readouterr().out
    tomllib.loads(printed)
    file = tmp_path / "mine.toml"
    file.write_text(printed)
    expected = configure(name, "apart").to_dict() | {"preset": str(file)}
    assert configure(str(file), "apart").to_dict() == expected


def test_list(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["preset", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == presets.names()


def test_unknown_preset(capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        main(["preset", "show", "cifar-10"])
    assert "unknown preset 'cifar-10': did you mean cifar10" in capsys.readouterr().err
    (tmp_path / "latin.toml").write_bytes("# \xe9".encode("latin-1"))
    with pytest.raises(UserError, match="not text in UTF-8"):
        presets.text(str(tmp_path / "latin.toml"))


# -- extends -------------------------------------------------------------------------------------------------------


def test_a_preset_inherits_from_the_extended_one(tmp_path):
    (tmp_path / "base.toml").write_text('extends = "cifar10"\nepochs = 7\n[model]\nname = "preact_resnet"\nwidth = 8\n')
    (tmp_path / "mine.toml").write_text(
        'extends = "base.toml"\nseed = 3\n[model]\nwidth = 16\n[methods.pgd]\nsteps = 2\n'
    )
    config = configure(str(tmp_path / "mine.toml"), "pgd")
    assert (config.epochs, config.seed, config.batch_size, config.optimizer.learning_rate) == (7, 3, 128, 0.2)
    assert config.model.settings == {"width": 16} and config.method.settings == {"steps": 2}
    assert configure(str(tmp_path / "mine.toml"), "apart").method.settings["raw_penalty"] == 200


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('extends = "mine.toml"', "extends itself"),
        ('extends = "cifar-10"', "unknown preset 'cifar-10': did you mean cifar10"),
        ("extends = 3", "extends is the name of one preset, as text, not 3"),
        ('extends = "nowhere.toml"', "nowhere.toml: No such file"),
        ('extends = "digits"\nepsilon_warmup = "long"', "'long' is not a number"),
        ('extends = "digits"\nepochs = 0', "epochs must be greater than 0"),
        ('extends = "digits"\nepochs = "30"', "epochs must be a whole number, not '30'"),
        ('extends = "digits"\nepochs = [1]', "epochs must be a whole number"),
        ('extends = "digits"\nmodel = 3', "model must have a name"),
        ('extends = "digits"\nmethods = 3', "is a section of settings, not one value"),
        ('extends = "digits"\nprobe = "all"', "probe is a section of settings"),
    ],
)
def test_an_invalid_preset_is_refused_in_one_line(toml, message, tmp_path):
    (tmp_path / "mine.toml").write_text(toml)
    with pytest.raises(UserError, match=message) as error:
        configure(str(tmp_path / "mine.toml"), "fgsm")
    assert "\n" not in str(error.value)


# -- ε warm-up -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, 4, float("nan")])
def test_warmup_is_no_longer_than_the_run(value):
    with pytest.raises(UserError, match=r"epsilon_warmup must be (between 0 and 3 epochs|a number)"):
        tiny_config("fgsm", epsilon_warmup=value)


def test_the_number_of_training_images_of_a_preset_holds_for_other_data_sets():
    preset = configure("cifar10-small", "fgsm").data.settings
    assert preset["limit"] == 10_000
    other = {"data": {"name": "image-folder:cifar10-jpeg"}}
    assert configure("cifar10-small", "fgsm", other).data.settings == {"limit": 10_000}
    assert configure("cifar10-small", "fgsm", other, {"data": {"limit": 300}}).data.settings == {"limit": 300}
    assert configure("cifar10", "fgsm", other).data.settings == {}


def test_runs_from_before_there_was_a_warmup_have_none():
    settings = tiny_config("fgsm").to_dict()
    del settings["epsilon_warmup"]
    assert Config.from_dict(settings) == tiny_config("fgsm")


def test_epsilon_rises_linearly_and_measurements_use_its_full_value(tmp_path, monkeypatch):
    seen: list[tuple[bool, float]] = []
    original = FGSM.perturb

    def perturb(self, model, x, y, **given):
        delta = original(self, model, x, y, **given)
        seen.append((model.batchnorm != "eval", delta.abs().max().item()))
        return delta

    monkeypatch.setattr(FGSM, "perturb", perturb)
    config = tiny_config("fgsm", epochs=2, epsilon_warmup=1.5)
    for _ in epochs(config, tmp_path / "run", device="cpu"):
        pass
    steps = len(seen_in_training := [bound for training, bound in seen if training]) // 2
    expected = [config.epsilon * min(1, step / (1.5 * steps)) for step in range(1, 2 * steps + 1)]
    assert seen_in_training == pytest.approx(expected, rel=1e-5)
    assert [bound for training, bound in seen if not training] == pytest.approx(
        [config.epsilon] * (len(seen) - 2 * steps)
    )


def test_a_warmup_of_0_has_no_effect():
    assert [warmup(step, 0) for step in (1, 100)] == [1.0, 1.0]
    assert [warmup(step, 4) for step in (1, 2, 4, 5)] == [0.25, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "shrink"])  # which needs data of its own
def test_every_method_follows_its_epsilon(method, trained):
    """A small ε gives perturbations of that size: nothing was made from the ε of the run. 3 ε is N-FGSM's bound."""
    import co_probe

    source = trained / method
    model = co_probe.open_run(source if source.exists() else trained / "fgsm").load_model(3)
    made = METHODS.make(method)
    if source.exists():
        made = co_probe.open_run(source).generator(3)
    x, y = co_probe.open_run(trained / "fgsm").test_data()
    delta = made.perturb(model, x, y, epsilon=0.01, rng=torch.Generator().manual_seed(0))
    assert delta.abs().max() <= 3 * 0.01 + 1e-6


def test_a_resumed_warmup_continues(tmp_path):
    config = tiny_config("fgsm", epsilon_warmup=2)
    whole = [m.train_loss for m in epochs(config, tmp_path / "whole", device="cpu")]
    first = next(iter(epochs(config, tmp_path / "halves", device="cpu")))
    rest = [m.train_loss for m in epochs(config, tmp_path / "halves", device="cpu", resume=True)]
    assert [first.train_loss, *rest] == whole
    assert Path(tmp_path / "halves" / "epoch-0003.h5").exists()

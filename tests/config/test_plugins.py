"""A user's own code: it loads when its name is typed or allowed, and never because a file names it."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch

import co_probe
from co_probe.attacks import PGD
from co_probe.cli.main import main
from co_probe.config import Config, plugins
from co_probe.config.presets import configure
from co_probe.config.registry import Registry
from co_probe.data.dataset import Dataset
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.methods.fgsm import FGSM
from co_probe.models import MODELS
from co_probe.runs.build import make_method
from co_probe.runs.checkpoints import _checksum, load_reference

SOURCE = """
from pathlib import Path
Path(__file__).with_suffix(".imported").touch()

import torch
from torch import nn
from co_probe.data.dataset import Dataset
from co_probe.methods.fgsm import FGSM

class Half(FGSM):
    def perturb(self, *args, **kwargs):
        return super().perturb(*args, **kwargs) / 2

class Net(nn.Module):
    def __init__(self, channels, classes, mean, std, width=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, width, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))
        self.body(torch.zeros(1, channels, 5, 5))
    def forward(self, x):
        return self.body(x)

def spirals(count=8):
    x = torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    y = torch.arange(count) % 2
    return Dataset(x, y, x, y, ("left", "right"), (0.0,), (1.0,))

def wrong():
    return 42

nothing = 3
"""
ALL = {"data": {"name": "mine:spirals", "count": 6}, "model": {"name": "mine:Net", "width": 2}}
SMALL = {"epochs": 1, "batch_size": 4}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """The working directory, with a module `mine` in it; nothing is allowed."""
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.setattr(plugins, "_allowed", [])
    monkeypatch.setattr(plugins, "_available", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("mine", None)
    yield tmp_path
    sys.modules.pop("mine", None)


def imported(here: Path) -> bool:
    return (here / "mine.imported").exists()


def run_command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def someones_run(here, monkeypatch) -> Path:
    """A run of method, model and data of its own, as it looks to somebody who did not make it."""
    co_probe.train("mine:Half", out=here / "run", device="cpu", **ALL, **SMALL)
    (here / "mine.imported").unlink()
    sys.modules.pop("mine")
    plugins._allowed.clear()
    return here / "run"


def test_typed_in_a_call(here):
    run = co_probe.train("mine:Half", device="cpu", **ALL, **SMALL)
    assert run.path == Path("runs/Half"), "no colon in the name of a folder"
    x, y = run.test_data()
    assert run.data.classes == ("left", "right") and len(run.data.train_y) == 6
    model = run.load_model(1)
    assert model.body[0].out_channels == 2
    delta = run.generator(1).perturb(model, x, y, epsilon=run.epsilon)
    assert delta.abs().max().item() == pytest.approx(run.epsilon / 2)


def test_the_method_of_the_contributing_page_is_complete(here):
    page = (Path(__file__).parents[2] / "docs" / "contributing.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_methods.py.*?)```", page, re.DOTALL)
    (here / "mine.py").write_text(SOURCE + code)
    run = co_probe.train("mine:ShortPGD", device="cpu", **ALL, **SMALL)
    x, y = run.test_data()
    delta = run.generator(1).perturb(run.load_model(1), x, y, epsilon=0.1, rng=torch.Generator().manual_seed(0))
    expected = PGD(epsilon=0.1, steps=2)(run.load_model(1), x, y, torch.Generator().manual_seed(0))
    assert torch.equal(delta, expected) and delta.any()


def test_an_overridden_perturb_is_reported_even_with_an_inherited_attack(here):
    run = co_probe.train("mine:Half", device="cpu", **ALL, **SMALL)
    generate = run.generator(1).generator_at(0.1)
    x, y = run.test_data()
    assert generate(run.load_model(1), x, y).abs().max().item() == pytest.approx(0.05)


@pytest.mark.parametrize("key", ["norm", "bounds", "epsilon"])
def test_settings_of_the_run_are_not_settings_of_a_method(key):
    with pytest.raises(UserError, match=f"{key}"):
        make_method(configure("digits", "fgsm", {"method": {key: 1}}))


def test_typed_on_the_command_line(here, capsys):
    settings = ["--set", "data.name=mine:spirals", "--set", "model.name=mine:Net", "--set", "batch_size=4"]
    assert run_command("run", "mine:Half", "--epochs", "1", "--device", "cpu", *settings) == 0, capsys.readouterr().err
    assert (here / "runs" / "Half" / "epoch-0001.h5").exists()


@pytest.mark.parametrize("part", ["data", "model", "method"])
def test_a_name_in_a_run_is_not_imported(part, someones_run, here, monkeypatch):
    names = {"data": "mine:spirals", "model": "mine:Net", "method": "mine:Half"}
    monkeypatch.setenv(plugins.VARIABLE, ",".join(name for key, name in names.items() if key != part))
    monkeypatch.setattr(plugins, "import_module", lambda name: pytest.fail("imported") if part == "data" else _mine())
    run = co_probe.open_run(someones_run)
    with pytest.raises(UserError, match=rf"co_probe\.allow\('{names[part]}'\) or .* CO_PROBE_ALLOW={names[part]}"):
        {"data": lambda: run.data, "model": lambda: run.load_model(1), "method": lambda: run.generator(1)}[part]()


def _mine():
    import importlib

    return importlib.import_module("mine")


def test_an_imported_module_is_no_permission(someones_run, here):
    sys.path.insert(0, str(here))
    _mine()
    with pytest.raises(UserError, match="allow it with"):
        _ = co_probe.open_run(someones_run).data


@pytest.mark.parametrize("allowed", ["mine", "other, mine:spirals ,mine:Net,mine:Half"])
def test_allowed_by_the_environment(allowed, someones_run, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, allowed)
    run = co_probe.open_run(someones_run)
    assert run.load_model(1)(run.test_data()[0]).shape == (6, 2)
    assert type(run.generator(1)).__name__ == "Half"


def test_allowed_on_the_command_line(someones_run, here, capsys):
    measured = ["gap", str(someones_run), "--against", "pgd3", "--device", "cpu"]
    assert run_command(*measured) == 2
    error = capsys.readouterr().err.strip()
    assert "model mine:Net is code that a file names" in error and not imported(here)
    assert (
        "give --model mine:Net where the command has that, or --allow mine:Net right after co-probe" in error
        and "\n" not in error
    )
    assert run_command("--allow", "mine", *measured) == 0
    assert imported(here)


def test_resuming_allows_only_the_typed_method(someones_run, here, capsys):
    command = ["run", "mine:Half", "--resume", "--out", str(someones_run), "--device", "cpu"]
    assert run_command(*command) == 2
    assert "data set mine:spirals is code that a file names" in capsys.readouterr().err


def test_allowing_a_package_allows_its_content_and_no_other_package_with_that_prefix():
    registry = Registry("thing", {})
    plugins.allow("collections")
    plugins.allow("os.path:join")
    assert registry.load("collections.abc:Mapping") and registry.load("os.path:join")
    for name in ("collectionsx:Y", "os.path:exists", "os:system", "collection:s"):
        with pytest.raises(UserError, match="allow it with"):
            registry.load(name)


def test_a_preset_file_is_a_file(here):
    (here / "mine.toml").write_text('epsilon = 0.1\nepochs = 1\ndata = "mine:spirals"\nmodel = "mine:Net"\n')
    with pytest.raises(UserError, match="data set mine:spirals is code that a file names"):
        co_probe.train("fgsm", preset="mine.toml", device="cpu")
    assert not imported(here)
    plugins.allow("mine")
    assert co_probe.train("fgsm", preset="mine.toml", device="cpu").epochs == [1]


def test_a_pt_file_cannot_run_a_command(here):
    """What `subprocess:run` would be called with stands in the file too; and subprocess is imported."""
    import subprocess

    content = {
        "format": "co-probe model",
        "schema": 1,
        "model": {"name": "subprocess:run", "args": ["touch", str(here / "owned")]},
        "shape": [1, 5, 5],
        "classes": ["a", "b"],
        "epsilon": 0.1,
        "weights": {},
    }
    torch.save(content | {"checksum": _checksum(content)}, here / "model.pt")
    assert subprocess.run
    with pytest.raises(UserError, match="model subprocess:run is code that a file names"):
        load_reference(here / "model.pt")
    settings = {"name": "subprocess:run", "args": ["touch", str(here / "owned")]}
    config = Config.from_dict(configure("digits", "fgsm").to_dict() | {"data": settings})
    with pytest.raises(UserError, match="data set subprocess:run is code that a file names"):
        from co_probe.runs.build import make_data

        make_data(config)
    assert not (here / "owned").exists()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mine:Net", {"widht": 3}, "unknown setting of model mine:Net 'widht': did you mean width"),
        ("mine:Net", {"classes": 3}, "unknown setting"),
        ("mine:wrong", {}, r"model mine:wrong: .*positional argument"),
        ("mine:Missing", {}, "mine has no class or function Missing"),
        ("mine:nothing", {}, "mine has no class or function nothing"),
        ("absent.part:Net", {}, "there is no module absent here"),
        ("broken:Net", {}, "broken fails with ZeroDivisionError: division by zero"),
        ("needy:Net", {}, "needy needs the module not_there, which is not installed"),
        ("mine:", {}, "unknown model"),
        ("not a name:Net", {}, "unknown model"),
    ],
)
def test_missing_modules_and_names_are_reported(name, settings, message, here):
    (here / "broken.py").write_text("1 / 0")
    (here / "needy.py").write_text("import not_there")
    plugins.allow(name)
    with pytest.raises(UserError, match=message):
        MODELS.make(name, 1, 2, (0.0,), (1.0,), **settings)


def test_constructed_objects_must_have_the_right_type():
    with pytest.raises(UserError, match=r"data set mine:wrong gave int, not co_probe\.data\.dataset\.Dataset"):
        co_probe.train("fgsm", data="mine:wrong", device="cpu")
    with pytest.raises(UserError, match="method mine:Net"):
        co_probe.train("mine:Net", data="mine:spirals", device="cpu")


@pytest.mark.slow
def test_processes_that_this_one_starts_inherit_permission(here):
    plugins.allow("mine")
    config = configure("digits", "mine:Half", ALL, SMALL)
    (run,) = co_probe.sweep({here / "pooled": config}, jobs=1, device="cpu")
    assert run.epochs == [1]


def test_neither_the_environment_nor_the_search_path_changes(here):
    environment, path = dict(os.environ), list(sys.path)
    plugins.allow("mine", "broken")
    (here / "broken.py").write_text("import sys; sys.path.append('/elsewhere'); 1 / 0")
    assert MODELS.load("mine:Net").__name__ == "Net"
    with pytest.raises(UserError, match="ZeroDivisionError"):
        MODELS.load("broken:Net")
    assert dict(os.environ) == environment and sys.path == [*path, "/elsewhere"], "what a module does is its own"


def test_the_working_directory_does_not_shadow_a_package(here):
    (here / "click.py").write_text("raise SystemError")
    sys.modules.pop("click.testing", None)
    plugins.allow("click.testing")
    assert METHODS.load("click.testing:CliRunner")


class Tiny(torch.nn.Module):
    """Written for another program: it takes no arguments."""

    def __init__(self, width: int = 3):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(25, width), torch.nn.Linear(width, 2))

    def forward(self, x):
        return self.body(x)


def few():
    x = torch.rand(8, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8) % 2
    return Dataset(x, y, x, y, ("left", "right"), (0.4,), (0.3,))


def test_classes_and_functions_are_handed_in(here):
    class Quarter(FGSM):
        """Nothing can import it by a name."""

    metrics = []
    run = co_probe.train(
        Quarter, model=Tiny, data=few, out="run", device="cpu", on_epoch=metrics.append, **SMALL | {"epochs": 2}
    )
    assert [m.epoch for m in metrics] == [1, 2] and run.config.method_title == f"{__name__}:Quarter"
    assert run.load_model(2)(run.test_data()[0]).shape == (8, 2)
    wide = co_probe.train("fgsm", model={"name": Tiny, "width": 5}, data=few, out="wide", device="cpu", **SMALL)
    assert wide.load_model(1).state_dict()["body.1.weight"].shape == (5, 25)
    with pytest.raises(UserError, match="has no name that a run could store"):
        co_probe.train("fgsm", model=lambda: Tiny(), data=few, device="cpu", **SMALL)
    x, _ = wide.test_data()
    again = co_probe.open_run("wide", model=Tiny(width=5)).load_model(1)
    assert torch.equal(again(x), wide.load_model(1)(x)), "whoever normalises"
    plugins._available.clear()
    plugins._allowed.clear()
    with pytest.raises(UserError, match="Tiny is code that a file names"):
        co_probe.open_run("run").load_model(2)


@pytest.mark.parametrize("progress", [True, "called"])
def test_progress_of_a_call(progress, here, capsys):
    seen = []
    given = progress if progress is True else lambda *at: seen.append(at)
    co_probe.train("fgsm", model=Tiny, data=few, out="run", device="cpu", progress=given, **SMALL)
    if progress is True:
        assert "fgsm: 1/1 (epochs)" in capsys.readouterr().err
    else:
        assert seen == [(1, 4, 8), (1, 8, 8)]


def test_registered_names_are_not_shadowed(here):
    (here / "fgsm.py").write_text("raise SystemError")
    assert isinstance(METHODS.make("fgsm"), FGSM)
    with pytest.raises(UserError, match="nothing behind a colon"):
        METHODS.load("fgsm:FGSM")

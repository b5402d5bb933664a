"""RobustBench: its models as runs and runs as what it evaluates, with the package itself where it is installed."""

import runpy
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import tiny_config
from torch import nn

import co_probe
from co_probe.data.dataset import Dataset
from co_probe.errors import UserError
from co_probe.models.robustbench import split_name
from co_probe.training.loop import epochs
from co_probe.training.robustbench import export_robustbench, import_robustbench


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x):
        return self.linear(x.flatten(1))


def images(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 32, 32, generator=rng), torch.arange(count) % 10


@pytest.fixture
def zoo(monkeypatch):
    """A package with the names of RobustBench's that are used here, and a zoo of three models."""
    entries = {
        "Small2020Fast": {"model": Small, "gdrive_id": "id"},
        "Ensemble": {"model": Small, "gdrive_id": ["a", "b"]},
        "NoFile": {"model": Small, "gdrive_id": None},
    }

    def load_model(name, model_dir, dataset, threat_model):
        network = entries[name]["model"]()
        network.load_state_dict(torch.load(Path(model_dir) / dataset / threat_model / f"{name}.pt"))
        return network

    package, model_zoo, enums, utils = (
        types.ModuleType(f"robustbench{name}") for name in ("", ".model_zoo", ".model_zoo.enums", ".utils")
    )
    enums.BenchmarkDataset = enums.ThreatModel = str
    model_zoo.model_dicts = {"cifar10": {"Linf": entries, "L2": {}}}
    utils.load_model = load_model
    for module in (package, model_zoo, enums, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def put_weights(folder: Path, network: nn.Module, name: str) -> None:
    (folder / "cifar10" / "Linf").mkdir(parents=True)
    torch.save(network.state_dict(), folder / "cifar10" / "Linf" / f"{name}.pt")


def test_names():
    assert split_name("Wong2020Fast") == ("cifar10", "Linf", "Wong2020Fast")
    assert split_name("cifar100/L2/Some") == ("cifar100", "L2", "Some")
    for wrong in ("cifar10/Some", "imagenet/Linf/Some", "cifar10/L1/Some"):
        with pytest.raises(UserError, match="write NAME, or DATASET/THREAT/NAME"):
            split_name(wrong)


def test_a_model_becomes_a_run(zoo, tmp_path):
    torch.manual_seed(0)
    network, (x, y) = Small(), images()
    put_weights(tmp_path / "models", network, "Small2020Fast")
    about = {"test": (x, y), "folder": tmp_path / "models", "check": False, "device": "cpu"}
    run = import_robustbench("Small2020Fast", out=tmp_path / "run", **about)
    assert run.info.method == "Small2020Fast" and run.epsilon == 8 / 255 and run.info.norm == "linf"
    again = co_probe.open_run(tmp_path / "run")  # by the name of its network, from the registry
    assert torch.equal(again.load_model(1)(x), network(x))
    frame = co_probe.evaluate(again, ["clean"], images=40)
    assert frame.query("attack == 'clean'")["value"].item() == (network(x).argmax(1) == y).float().mean().item()
    assert import_robustbench("Small2020Fast", out=tmp_path / "run", folder="nowhere").epochs == [1]  # as it is there


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Small2020Fast", r"the weights are not on this machine: put them in .*cifar10/Linf/Small2020Fast\.pt"),
        ("Smal2020Fast", "unknown RobustBench model of cifar10, Linf 'Smal2020Fast': did you mean Small2020Fast"),
        ("Ensemble", "ensemble of several files"),
        ("NoFile", "only models of one file"),
    ],
)
def test_models_that_cannot_be_had(name, words, zoo, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        import_robustbench(name, out=tmp_path / "run", folder=tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_without_the_package_it_is_one_line(monkeypatch, tmp_path, call):
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo", None)
    code, _, err = call("eval", "robustbench:Wong2020Fast", "--runs", tmp_path)
    assert code == 2 and err.count("\n") == 1 and "needs the package robustbench: pip install robustbench" in err
    code, _, err = call("eval", "--data", "digits", "--runs", tmp_path)
    assert code == 2 and "--data is for robustbench:NAME" in err


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Path:
    """A run of an epoch on colour images of 32×32."""
    folder = tmp_path_factory.mktemp("coloured")
    x, y = images(60)
    data = Dataset(x, y, x[:20], y[:20], tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    config = tiny_config("fgsm", epochs=1, epsilon=8 / 255, augmentation={"padding": 0}, probe={"test": 20, "train": 9})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("co_probe.training.loop.make_data", lambda config: data)
        list(epochs(config, folder / "run", device="cpu"))
    return folder / "run"


def test_an_export_is_the_model_that_was_trained(coloured, tmp_path, call):
    code, out, err = call("export", coloured, "--robustbench", "-o", tmp_path / "out")
    assert code == 0, err
    script = runpy.run_path(str(tmp_path / "out" / "run_epoch1.py"))
    assert "python" in out and (script["DATASET"], script["THREAT_MODEL"]) == ("cifar10", "Linf")
    assert script["EPSILON"] == 8 / 255
    model, (x, _) = script["load_model"](), images()
    assert not model.training and torch.equal(model(x), co_probe.open_run(coloured).load_model(1)(x))


def test_other_images_are_not_robustbenchs(trained, tmp_path):
    with pytest.raises(UserError, match=r"RobustBench evaluates CIFAR-10 and CIFAR-100, and this run has images of"):
        export_robustbench(co_probe.open_run(trained / "fgsm"), 3, tmp_path / "out")


@pytest.mark.slow
def test_the_package_itself(coloured, tmp_path):
    """An architecture of the real zoo with weights of its file format; and the real `benchmark` on an export."""
    pytest.importorskip("robustbench.utils", exc_type=ImportError, reason="robustbench is not installed")
    from robustbench.model_zoo.cifar10 import Wong2020FastNet

    torch.manual_seed(0)
    network, (x, y) = Wong2020FastNet().eval(), images(20)
    put_weights(tmp_path / "models", network, "Wong2020Fast")
    about = {"test": (x, y), "folder": tmp_path / "models", "check": False, "device": "cpu"}
    run = import_robustbench("Wong2020Fast", out=tmp_path / "run", **about)
    with torch.no_grad():
        torch.testing.assert_close(run.load_model(1)(x), network(x))

    evaluation = pytest.importorskip("robustbench.eval", exc_type=ImportError, reason="autoattack is not installed")
    _, script = export_robustbench(co_probe.open_run(coloured), 1, tmp_path / "out")
    made = runpy.run_path(str(script))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "load_clean_dataset", lambda dataset, n, *rest: (x[:n], y[:n]))
        clean, robust = evaluation.benchmark(
            made["load_model"](), n_examples=8, dataset="cifar10", threat_model="Linf", eps=made["EPSILON"]
        )
    with torch.no_grad():
        right = made["load_model"]()(x[:8]).argmax(1) == y[:8]
    assert clean == pytest.approx(right.float().mean().item()) and 0 <= robust <= clean

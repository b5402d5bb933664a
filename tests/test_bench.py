"""What a benchmark counts, which rows it has, and that what it compares does the same work. No test times anything."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import co_probe
from co_probe.attacks import PGD
from co_probe.benchmarks import bench
from co_probe.benchmarks.attacks import FULL, OURS, PLAIN, adversaries, balance
from co_probe.benchmarks.memory import peak_bytes
from co_probe.benchmarks.steps import into_weights
from co_probe.benchmarks.turns import spread, take_turns
from co_probe.benchmarks.work import Layout, work
from co_probe.cli.bench import TABLES
from co_probe.cli.main import main
from co_probe.errors import UserError
from co_probe.inference import execution

SMALL = {"batch_size": 16, "model": {"width": 8}, "data": {"size": 8}}
CPU = torch.device("cpu")


def small(methods, part, **settings):
    """{subject: {quantity: value}} of a part on tiny digits."""
    frame = bench(methods, parts=[part], settings=SMALL, repeats=1, device="cpu", **settings)
    return frame.pivot(index="subject", columns="quantity", values="value")


def test_passes_are_those_of_the_methods_formulas():
    wide = small(["fgsm", "pgd", "apart-simple", "free"], "steps")
    passes = wide["passes"].dropna()
    assert list(passes.index) == ["apart-simple", "fgsm", "free", "pgd", "standard"]
    # Clean training: a forward pass and two for the backward one, but the first layer needs no input gradient.
    assert 2.8 < passes["standard"] <= 3
    # A perturbation pass takes a forward and one backward pass, and computes no gradient for weights.
    assert passes["fgsm"] == pytest.approx(passes["standard"] + 2, abs=0.05)
    assert passes["pgd"] == pytest.approx(passes["standard"] + 20, abs=0.3)
    assert passes["apart-simple"] == pytest.approx(passes["fgsm"], abs=0.1)
    assert passes["free"] == pytest.approx(3, abs=0.01)
    assert (wide["seconds"].dropna() > 0).all() and wide["ratio"]["standard"] == 1


def test_rates_follow_from_seconds():
    wide = small(["fgsm"], "steps")
    fgsm, product = wide.loc["fgsm"], wide.loc["matrix product"]
    assert fgsm["images_per_second"] == pytest.approx(16 / fgsm["seconds"])
    assert fgsm["utilisation"] == pytest.approx(fgsm["gflops_per_second"] / product["gflops_per_second"])
    assert fgsm["convolution_share"] > 0
    # What APART keeps for 1,297 images of 10×10 pixels is memory that FGSM does not need.
    apart = small(["apart-simple"], "steps").loc["apart-simple"]
    assert apart["memory_mb"] - fgsm["memory_mb"] == pytest.approx(4 * 1297 * 100 / 1e6, rel=0.2)


def test_compiled_steps_stand_beside_plain_ones(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(execution, "BACKEND", "aot_eager")
    wide = small(["fgsm"], "steps", compile=True)
    assert list(wide.index) == ["fgsm", "fgsm, compiled", "matrix product", "standard", "standard, compiled"]
    assert wide["passes"]["fgsm, compiled"] == wide["passes"]["fgsm"]
    assert (wide["seconds"].drop("matrix product") > 0).all()
    assert {OURS, f"{OURS}, compiled", PLAIN} <= set(small(["fgsm"], "attacks", compile=True).index)


def test_into_weights_adds_a_pass_and_changes_nothing():
    wide = small(["apart", "standard"], "gradients")
    assert list(wide.index) == ["apart", "apart, weights too"]
    assert wide["passes"]["apart, weights too"] == pytest.approx(wide["passes"]["apart"] + 1, abs=0.02)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), torch.rand(2, 1, 8, 8)
    x.requires_grad_()
    own = torch.autograd.grad(model(x).sum(), x)
    with into_weights(model):
        calls = work(lambda: torch.autograd.grad(model(x).sum(), x)).convolutions
        theirs = torch.autograd.grad(model(x).sum(), [x])
    assert torch.equal(own[0], theirs[0]) and len(theirs) == 1
    assert calls[-1][1][-1] == [True, True, True]  # gradients of the input, the weights and the biases
    assert all(p.grad is None for p in model.parameters())


def test_work_repeats_the_convolutions_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).requires_grad_(False)
    x = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    done = work(lambda: torch.autograd.grad(model(x).sum(), x))
    assert done.dtype == torch.float32
    forward, linear = 2 * 2 * 8 * 36 * 27, 2 * 2 * 288 * 10
    assert done.flops == 2 * (forward + linear)
    again = work(done.alone())
    assert again.flops == 2 * forward
    assert again.convolutions == done.convolutions and len(done.convolutions) == 2
    assert Layout.of(x).filled().stride() == x.stride()


def test_peak_memory_is_of_what_is_alive_at_a_time():
    def make():
        kept = torch.ones(1000)

        def act():
            for _ in range(3):
                sum_of_two = (kept + 1) + (kept + 2)
                del sum_of_two

        return act

    assert peak_bytes(make, CPU) == 4 * 4 * 1000


def test_things_take_turns():
    order = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, CPU)
    assert order == (["b", "a", "a", "b"] * len(order))[: len(order)], "each begins every other time"
    assert len(times["a"]) == len(times["b"]) == 3 < len(order) / 2
    row = spread("a", "seconds", np.array([1.0, 2.0, 3.0, 4.0, 50.0]))
    assert row == {"subject": "a", "quantity": "seconds", "value": 3.0, "low": 2.0, "high": 4.0, "n": 5}


@pytest.fixture(scope="module")
def victim():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    x = torch.rand(40, 1, 8, 8)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("name", [PLAIN, "torchattacks"])
def test_adversaries_do_what_ours_does(name, victim):
    model, x, y = victim
    made = {}
    makers = adversaries(model, 0.05, FULL, CPU)
    if name not in makers:
        pytest.skip(f"the package {name} is not installed")
    for maker in (OURS, name):
        torch.manual_seed(3)
        made[maker] = makers[maker](x, y)
    assert (made[OURS] - x).abs().max() == pytest.approx(0.05)
    # A gradient that rounds to the other side of 0 may send a pixel elsewhere.
    assert ((made[OURS] - made[name]).abs() < 1e-6).float().mean() > 0.99
    assert all(p.grad is None for p in model.parameters())


def test_the_epsilon_of_half_the_images(victim):
    model, x, y = victim
    for start in (0.001, 0.5):
        epsilon = balance(model, x, y, start)
        assert 0.3 < PGD(epsilon=epsilon, steps=20).robust_mask(model, x, y).float().mean() < 0.7
    with pytest.raises(UserError, match="no ε"):
        balance(model, x, (y + 1) % 10, 0.1)


@pytest.mark.parametrize("preset, batch_size", [("digits", 40), ("cifar10-30", 10)])
def test_accuracy_is_the_same_however_it_is_counted(preset, batch_size):
    narrow = {"batch_size": batch_size, "epsilon": 0.03, "model": {"name": "preact_resnet", "width": 8, "blocks": [1]}}
    if preset == "digits":
        narrow |= {"data": {"size": 8}, "model": narrow["model"] | {"blocks": [1, 1]}}
    frame = bench(parts=["accuracy"], preset=preset, settings=narrow, repeats=1, device="cpu")
    wide = frame.pivot(index="subject", columns="quantity", values="value")
    assert {OURS, "co-probe, whole batch", PLAIN} <= set(wide.index)
    ours = wide["accuracy"][OURS]
    assert 0.45 <= ours <= 0.55 and wide["clean"][OURS] >= 0.8
    same_start = [name for name in wide.index if name != "foolbox"]
    one_image = 1 / (4 * batch_size) + 1e-6  # batches of another size round otherwise
    assert (wide["accuracy_on_the_way"][same_start] - ours).abs().max() <= one_image
    assert (wide["accuracy"] >= wide["accuracy_on_the_way"] - 1e-6).all()
    assert (wide["ratio"] > 0).all() and wide["ratio"][OURS] == 1


def test_storage(tmp_path):
    wide = small(["apart-simple", "fgsm"], "storage", folder=tmp_path)
    assert not list(tmp_path.iterdir())
    fgsm, apart = wide.loc["fgsm"], wide.loc["apart-simple"]
    omega = 4 * 1297 * 100 / 1e6
    assert apart["resume_mb"] - fgsm["resume_mb"] == pytest.approx(omega, rel=0.05)
    kept = 500 * 64 / 1e6  # MB, of ω, a byte per number
    assert fgsm["epoch_mb"] < apart["epoch_mb"] < fgsm["epoch_mb"] + kept + 0.01
    assert 0 < fgsm["share_of_epoch"] < 1 and fgsm["over_parameters"] > 0
    parameters = fgsm["epoch_mb"] / (1 + fgsm["over_parameters"])
    assert apart["epoch_mb"] / (1 + apart["over_parameters"]) == pytest.approx(parameters)
    for kind in ("read", "write"):
        assert (wide[f"{kind}_mb_per_second"] > 0).all() and (wide[f"{kind}_seconds"] > 0).all()


def test_the_table_says_in_what_circumstances(tmp_path):
    frame = bench(["fgsm"], settings=SMALL, repeats=2, device="cpu", folder=tmp_path)
    assert list(frame["part"].unique()) == ["steps", "gradients", "attacks", "accuracy", "storage"]
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    assert set(frame["n"]) == {1, 2}
    alike = frame.drop(columns=["part", "subject", "quantity", "value", "low", "high", "n"]).drop_duplicates()
    assert alike.iloc[0].to_dict() == {
        "preset": "digits",
        "model": "preact_resnet",
        "data": "digits",
        "images": "real",
        "batch_size": 16,
        "dtype": "float32",
        "device": "CPU, 1 threads",
        "torch": torch.__version__,
    }
    for part, (_, columns) in TABLES.items():
        shown = {quantity for quantity, *_ in columns}
        assert shown <= set(frame["quantity"][frame["part"] == part]), part


def run_cli(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *arguments])
    return stopped.value.code


def test_command_line(capsys):
    tiny = ["--parts", "steps", "--methods", "fgsm", "--repeats", "1", "--device", "cpu"]
    tiny += ["--set", "batch_size=8", "--set", "model.name=preact_resnet", "--set", "model.width=8"]
    assert run_cli(*tiny, "--preset", "cifar10-30", "--set", "data.limit=50", "--json") == 0
    records = json.loads(capsys.readouterr().out)
    assert {record["images"] for record in records} == {"random"} and records[0]["part"] == "steps"
    assert run_cli(*tiny) == 0
    text = capsys.readouterr().out
    assert "preact_resnet on digits, batches of 8, float32" in text
    assert "× clean training" in text and "\n fgsm " in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--methods", "fgms"], "unknown method 'fgms': did you mean fgsm"),
        (["--parts", "step"], "unknown part 'step': did you mean steps"),
        (["--methods", ","], "at least one method"),
        (["--parts", "storage", "--folder", "/nowhere/at/all"], "cannot write to the folder /nowhere/at/all"),
        (["--preset", "cifar10-30", "--set", "data.name=cifar1"], "unknown data set 'cifar1'"),
        (["--methods", "apart", "--set", "method.initial_step=-1"], "initial_step must be greater than 0"),
        (["--methods", "standard,free", "--parts", "gradients"], "no perturbation pass in free, standard"),
        (["--methods", "fgsm,pgd", "--set", "method.steps=3"], "unknown setting of method fgsm 'steps'"),
    ],
)
def test_what_cannot_be_measured(arguments, message, capsys):
    assert run_cli(*arguments, "--device", "cpu", "--repeats", "1") == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_bench_can_be_called_twice():
    for _ in range(2):
        with pytest.raises(UserError, match="unknown method 'fgms'"):
            co_probe.bench(["fgms"])

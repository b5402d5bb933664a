"""What a benchmark counts, which rows it has, and that what it compares does the same. No test depends on a time."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from co_probe.benchmarks import PARTS, bench, measures
from co_probe.benchmarks.attacks import COMPILED, OURS, PLAIN, adversaries
from co_probe.benchmarks.measures import flops, interleaved, rows, side_by_side
from co_probe.cli.bench import COLUMNS, TITLES
from co_probe.cli.main import main
from co_probe.inference import execution

SMALL = {"batch_size": 16, "model": {"width": 8, "blocks": [1, 1]}, "data": {"size": 8}}
OMEGA_MB = 4 * 1297 * 10 * 10 / 1e6  # a float32 for each pixel of the padded training images
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    measured = bench(["apart-simple", "fgsm"], settings=SMALL, repeats=1, device="cpu", folder=folder)
    assert not list(folder.iterdir()), "the files of the part storage are deleted"
    return measured


@pytest.fixture(scope="module")
def parts(frame):
    """{part: table with a row per subject and a column per quantity}"""
    return {part: of.pivot(index="subject", columns="quantity", values="value") for part, of in frame.groupby("part")}


def test_the_table_states_the_conditions_of_its_numbers(frame):
    assert list(frame["part"].unique()) == list(PARTS.entries) == list(TITLES)
    columns = ["part", "subject", "quantity", "value", "low", "high", "n"]
    assert list(frame.columns[:7]) == columns and (frame["n"] == 1).all() and np.isfinite(frame["value"]).all()
    about = frame.drop(columns=columns).drop_duplicates()
    assert about.to_dict("records") == [
        {
            "preset": "digits",
            "model": "preact_resnet",
            "data": "digits",
            "images": "real",
            "batch_size": 16,
            "dtype": "float32",
            "device": "CPU, 1 threads",
            "torch": torch.__version__,
        }
    ]
    assert set(frame["quantity"]) == COLUMNS.keys(), "each is printed"


def test_passes_are_those_of_the_methods(parts):
    passes = parts["steps"]["passes"].dropna()
    assert list(passes.index) == ["apart-simple", "fgsm", "standard"]
    # A forward pass and two for the backward one, but the first layer needs no input gradient.
    assert 2.8 < passes["standard"] <= 3
    # A perturbation pass is a forward and one backward pass, and computes no gradient of weights.
    assert passes["fgsm"] == pytest.approx(passes["standard"] + 2, abs=0.05)
    assert passes["apart-simple"] == pytest.approx(passes["fgsm"], abs=0.1)


def test_rates_follow_from_seconds(parts):
    steps, fgsm = parts["steps"], parts["steps"].loc["fgsm"]
    assert fgsm["images_per_second"] == pytest.approx(16 / fgsm["seconds"])
    for part, yardstick in {"steps": "standard", "indicators": "fgsm", "attacks": OURS}.items():
        assert parts[part]["ratio"][yardstick] == 1
    assert fgsm["ratio"] == pytest.approx(fgsm["seconds"] / steps["seconds"]["standard"])


def test_storage(parts):
    fgsm, apart = parts["storage"].loc["fgsm"], parts["storage"].loc["apart-simple"]
    assert apart["resume_mb"] - fgsm["resume_mb"] == pytest.approx(OMEGA_MB, rel=0.05)
    byte_per_number = 500 * 64 / 1e6
    assert fgsm["epoch_mb"] < apart["epoch_mb"] < fgsm["epoch_mb"] + byte_per_number + 0.01
    assert 0 < fgsm["share_of_epoch"] < 1 and fgsm["write_seconds"] > 0 and fgsm["read_seconds"] > 0


def test_images_are_decoded_and_read(parts):
    data = parts["data"]
    assert list(data.index) == sorted(
        [f"JPEG to {size}" for size in (160, 352, 384)]
        + [f"crops of {crop} from the cache of {size}" for crop, size in ((128, 160), (224, 352), (288, 384))]
    )
    crops = data.loc["crops of 128 from the cache of 160"]
    assert crops["mb_per_second"] == pytest.approx(crops["images_per_second"] * 3 * 128**2 / 1e6)
    jpeg = data.loc["JPEG to 160"]
    assert 0.05 < jpeg["mb_per_second"] / jpeg["images_per_second"] < 0.2, "a file has about 110 kB"


def test_actions_take_turns(monkeypatch):
    monkeypatch.setattr(measures, "LEAST_SECONDS", 0)
    order, told = "", []

    def act(name):
        nonlocal order
        order += name

    actions = {"a": lambda: act("a"), "b": lambda: act("b")}
    times = interleaved(actions, 3, lambda *done: told.append(done))
    assert order == 3 * "aabb", "once to warm up, once measured"
    assert told == [(1, 3), (2, 3), (3, 3)] and times["a"].shape == times["b"].shape == (3,)
    values = np.array([1.0, 2.0, 3.0, 4.0, 50.0])
    assert rows("a", seconds=values) == [
        {"subject": "a", "quantity": "seconds", "value": 3.0, "low": 2.0, "high": 4.0, "n": 5}
    ]


def test_blocks_alternate_and_count_processor_time(monkeypatch):
    order, clock = "", iter(range(1000))
    monkeypatch.setattr(measures.time, "process_time", lambda: next(clock))

    def act(name):
        nonlocal order
        order += name
        if name == "b":
            next(clock)

    times = side_by_side({"a": lambda: act("a"), "b": lambda: act("b")}, turns=2, block=3)
    assert order == "ab" + "aaabbb" + "bbbaaa"
    assert times["a"].tolist() == [1, 1] and times["b"].tolist() == [4, 4]


def test_steps_with_indicators_and_monitor_are_measured_beside_plain_ones(parts):
    watched = parts["indicators"]
    assert list(watched.index) == sorted(
        name + more for name in ("apart-simple", "fgsm") for more in ("", ", indicators", ", monitor")
    )
    assert (watched["ratio"] > 0.5).all()


@pytest.fixture(scope="module")
def victim():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    x = torch.rand(40, 1, 8, 8)
    return model, x, model(x).argmax(1)


def test_flops_count_forward_and_backward_passes(victim):
    model, x = victim[0], victim[1].clone().requires_grad_()
    forward = flops(lambda: model(x))
    assert forward == 2 * 40 * (8 * 36 * 9 + 288 * 10)
    assert flops(lambda: torch.autograd.grad(model(x).sum(), x)) == 2 * forward
    assert flops(lambda: model(x).sum().backward()) == 3 * forward
    model.zero_grad()


@pytest.mark.parametrize("name", [PLAIN, "torchattacks", "foolbox"])
def test_adversaries_do_the_same(name, victim):
    model, x, y = victim
    makers = adversaries(model, 0.05, 10, CPU)
    if name not in makers:
        pytest.skip(f"the package {name} is not installed")
    made = {}
    for maker in (OURS, name):
        torch.manual_seed(3)
        made[maker] = makers[maker](x, y)
        assert (made[maker] - x).abs().max() == pytest.approx(0.05)
    # A gradient that rounds to the other side of 0 may move a pixel elsewhere, and foolbox draws another start.
    assert ((made[OURS] - made[name]).abs() < 1e-6).float().mean() > (0.9 if name == "foolbox" else 0.99)
    model.zero_grad()


@pytest.mark.slow
def test_compiled_steps_and_attacks_are_measured_beside_uncompiled_ones(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(execution, "BACKEND", "aot_eager")
    measured = bench(
        ["fgsm"], parts=["steps", "attacks"], settings=SMALL, repeats=1, device="cpu", compile=True
    ).set_index(["part", "quantity", "subject"])["value"]
    passes = measured["steps"]["passes"]
    assert list(passes.index) == ["standard", "standard, compiled", "fgsm", "fgsm, compiled"]
    assert passes["fgsm, compiled"] == passes["fgsm"] and (measured["steps"]["seconds"] > 0).all()
    assert {OURS, COMPILED, PLAIN} <= set(measured["attacks"]["ratio"].index)


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
    assert "A training step" in text and "relative time" in text and "\n fgsm " in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--methods", "fgms"], "unknown method 'fgms': did you mean fgsm"),
        (["--parts", "step"], "unknown part 'step': did you mean steps"),
        (["--methods", ","], "at least one method"),
        (["--parts", "storage", "--folder", "/nowhere/at/all"], "cannot write to the folder /nowhere/at/all"),
        (["--preset", "cifar10-30", "--set", "data.name=cifar1"], "unknown data set 'cifar1'"),
        (["--methods", "apart", "--set", "method.initial_step=-1"], "initial_step must be greater than 0"),
        (["--methods", "fgsm,pgd", "--set", "method.steps=3"], "unknown setting of method fgsm 'steps'"),
    ],
)
def test_unsupported_measurements_are_refused(arguments, message, capsys):
    assert run_cli(*arguments, "--device", "cpu", "--repeats", "1") == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error

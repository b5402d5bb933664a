"""Compiled against plain, bfloat16 against float32: the same updates, to rounding, by every method."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
from campaigns import ALL
from conftest import tiny_config
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import co_probe
from co_probe.data.augment import pad_images, random_view
from co_probe.errors import UserError
from co_probe.indicators.curvature import curvature
from co_probe.inference import execution
from co_probe.inference.execution import Execution, execute, resolve
from co_probe.inference.forward import Forward
from co_probe.methods import METHODS
from co_probe.methods.base import Batch, Method, TrainingContext
from co_probe.models.preact_resnet import PreActResNet
from co_probe.runs.checkpoints import export, load_reference
from co_probe.studies.injection.low_pass import LowPass
from co_probe.training import loop
from co_probe.training.loop import epochs, train_step

COUNT, SIZE, EPSILON = 12, (1, 8, 8), 0.1
ON_IMAGES = [name for name in METHODS if name != "shrink"]  # which has data and a network of its own
# To compile takes seconds each: usually one method of each kind of pass is compiled.
COMPILED = ON_IMAGES if ALL else ["fgsm", "apart", "trades", "grad-align"]


def make_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    """In float64, so that the sign of a gradient is never a matter of rounding."""
    torch.manual_seed(0)
    return PreActResNet(1, 3, (0.3,), (0.5,), width=8, blocks=(1,)).to(dtype).train()


def train(
    name: str,
    model: nn.Module,
    sizes: Sequence[int] = (5, 5, 3),
    watch: AbstractContextManager | None = None,
    **settings,
) -> tuple[nn.Module, Method]:
    """A few steps, inside `watch`, on batches of these sizes; the model and the method afterwards."""
    device, dtype = next((p.device, p.dtype) for p in model.parameters())
    rng = torch.Generator(device).manual_seed(0)
    method = METHODS.make(name, **settings)
    method.setup(model, TrainingContext(COUNT, SIZE, 1, 4, EPSILON, device, rng))
    if name.startswith("apart"):
        with torch.no_grad():
            method.alpha.fill_(0.4)  # far from the start, so that every term counts
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images = pad_images(torch.rand((COUNT, *SIZE), generator=rng, dtype=dtype, device=device), 1)
    labels = torch.randint(3, (COUNT,), generator=rng, device=device)
    method.start_epoch(1, rng)
    execution = Execution.of(model)
    forward = Forward(model, compiled=bool(execution and execution.compiled))
    for size in sizes:
        index = torch.randperm(COUNT, generator=rng, device=device)[:size]
        view = random_view(index, SIZE[1:], 1, True, rng)
        with watch or nullcontext():
            batch = Batch(view.take(images), labels[index], view, EPSILON, 0.5, rng)
            train_step(forward, method, optimizer, batch, 0.1)
    return model, method


# -- compiled --------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """Compile with AOTAutograd, without a compiler behind it; the graphs of forward and of backward passes.

    And of forward passes that no backward one follows (`inference`).
    """
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    graphs: dict[str, list] = {"forward": [], "backward": [], "inference": []}

    def keep(direction):
        return lambda graph, _: graphs[direction].append(graph) or make_boxed_func(graph.forward)

    torch._dynamo.reset()
    compilers = {"fw_compiler": "forward", "bw_compiler": "backward", "inference_compiler": "inference"}
    backend = aot_autograd(**{name: keep(direction) for name, direction in compilers.items()})
    monkeypatch.setattr(execution, "BACKEND", backend)
    return graphs


def compiled_model() -> nn.Module:
    model = make_model()
    execute(model, "float32", compiled=True)
    return model


def assert_same(plain: tuple[nn.Module, Method], fast: tuple[nn.Module, Method]) -> None:
    states = [{**model.state_dict(), **method.state_dict()} for model, method in (plain, fast)]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-5, atol=1e-6)


def weight_gradients(graph: torch.fx.GraphModule) -> int:
    """How many convolutions of a backward pass compute a gradient of their weights."""
    calls = [n for n in graph.graph.nodes if n.target is torch.ops.aten.convolution_backward.default]
    assert calls
    return sum(call.args[-1][1] for call in calls)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_and_plain_give_the_same_update(name, counted):
    assert_same(train(name, make_model()), train(name, compiled_model()))
    assert counted["backward"]


@pytest.mark.parametrize(("name", "batchnorm"), [("apart", "update"), ("grad-align", "eval")])
def test_compiled_and_plain_agree_on_batchnorm(name, batchnorm, counted):
    settings = {"batchnorm": batchnorm, "sizes": (5, 5)}
    assert_same(train(name, make_model(), **settings), train(name, compiled_model(), **settings))


def test_compiled_and_plain_agree_on_settings_of_grad_align(counted):
    settings = {"base": "fgsm-rs", "detach": True, "sizes": (5, 5)}
    assert_same(train("grad-align", make_model(), **settings), train("grad-align", compiled_model(), **settings))


@pytest.mark.parametrize("name", ["fgsm", "apart"])
def test_compiled_passes_are_as_many_as_the_method_needs(name, counted):
    train(name, compiled_model(), sizes=(5, 5, 5, 3))
    # Two passes, each in two sizes of batches, however many steps; the perturbation's has no gradients of weights.
    assert len(counted["forward"]) == len(counted["backward"]) == 4
    assert sorted(map(weight_gradients, counted["backward"])) == [0, 0, 3, 3]


def differentiates(graph: torch.fx.GraphModule) -> bool:
    """Whether a graph takes gradients through a convolution."""
    return any(node.target is torch.ops.aten.convolution_backward.default for node in graph.graph.nodes)


def test_second_derivatives_are_compiled(counted):
    """And what was compiled for one model serves the next."""
    for _ in range(2):
        train("grad-align", compiled_model(), sizes=(5, 5, 5, 3))
        # Two sizes of batches; images of one channel are laid out in two ways, with noise and without.
        assert sorted(map(differentiates, counted["forward"])) == [False] * 2 + [True] * 4
        assert len(counted["backward"]) == 6


def filtered_and_hooked() -> nn.Module:
    model = LowPass(make_model(), 4)
    model.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))
    model.register_forward_hook(lambda module, args, logits: logits * 3)
    model.network.layer1[0].conv1.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    return model


def test_second_derivatives_are_of_the_whole_model(counted):
    fast = filtered_and_hooked()
    execute(fast, "float32", compiled=True)
    assert_same(*(train("grad-align", model, sizes=(5, 5)) for model in (filtered_and_hooked(), fast)))
    assert any(map(differentiates, counted["forward"]))


class Broken(nn.Module):
    """Compiled code ends, and begins again, within it."""

    def __init__(self):
        super().__init__()
        self.network = make_model()

    def forward(self, x):
        x = self.network(x)
        torch._dynamo.graph_break()
        return x * 2


def test_second_derivatives_that_cannot_be_compiled_are_plain_and_say_why(counted, capsys):
    fast = Broken()
    execute(fast, "float32", compiled=True)
    assert_same(train("grad-align", Broken()), train("grad-align", fast))
    assert counted["forward"] and not any(map(differentiates, counted["forward"]))
    complaint = capsys.readouterr().err
    assert complaint.startswith("second derivatives are not compiled: ") and complaint.count("\n") == 1


def test_compiled_perturbations_of_blocks_take_effect(counted):
    simple, full = (train(name, compiled_model(), sizes=(5,))[0] for name in ("apart-simple", "apart"))
    assert not torch.allclose(simple.conv1.weight, full.conv1.weight, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apart", "trades"] if ALL else ["fgsm"])
def test_inductor_gives_the_same_update(name):
    """Of all methods on a GPU, in `test_cuda.py`: a compiler takes its time."""
    torch._dynamo.reset()
    assert_same(train(name, make_model(), sizes=(5, 5)), train(name, compiled_model(), sizes=(5, 5)))


def test_a_compiled_run_learns_the_same_as_an_uncompiled_one(counted, tmp_path):
    runs = []
    for compile in (False, True):
        out = tmp_path / str(compile)
        list(epochs(tiny_config("fgsm", epochs=1), out, device="cpu", compile=compile))
        runs.append(co_probe.open_run(out))
    assert counted["forward"]
    plain, fast = (run.metrics(1)["train_loss"] for run in runs)
    assert fast == pytest.approx(plain, rel=0.02)  # in float32 a sign may differ here and there


def test_probes_measure_the_same_compiled_with_one_set_of_graphs_for_all_epochs(counted, runs):
    plain = co_probe.gap(runs / "fgsm", against="pgd3", device="cpu")
    assert not counted["forward"]
    (runs / "fgsm" / "results.h5").unlink()
    fast = co_probe.gap(runs / "fgsm", against="pgd3", device="cpu", compile=True)
    np.testing.assert_allclose(fast["value"], plain["value"], rtol=0.02, atol=0.02)
    # Of three epochs and two attacks: one pass for input gradients, without those of weights, and one for the loss.
    assert len(counted["forward"]) == 1 and sum(map(weight_gradients, counted["backward"])) == 0
    assert len(counted["inference"]) == 1


def test_second_derivatives_stay_plain_in_a_compiled_network(counted, runs):
    run = co_probe.open_run(runs / "fgsm")
    x, y = run.test_data()
    for epoch, fast in run.models([2], compile=True):
        values = curvature(fast, x[:5], y[:5])
        assert torch.equal(values, curvature(run.load_model(epoch), x[:5], y[:5]))
    assert not counted["forward"]


# -- precision -------------------------------------------------------------------------------------------------------


class Dtypes(TorchDispatchMode):
    """Remembers what convolutions compute in."""

    def __init__(self):
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if "convolution" in func.__name__:
            self.seen.add(args[0].dtype)
        return out


@pytest.mark.parametrize("name", ON_IMAGES)
def test_bfloat16_applies_to_the_network_only(name):
    model = make_model(torch.float32)
    execute(model, "bfloat16")
    dtypes = Dtypes()
    _, method = train(name, model, watch=dtypes)
    assert dtypes.seen == {torch.bfloat16}
    assert model(torch.rand(2, *SIZE)).dtype == torch.float32
    assert {t.dtype for p in model.parameters() for t in (p, p.grad)} == {torch.float32}
    assert {v.dtype for v in method.state_dict().values() if isinstance(v, torch.Tensor)} <= {torch.float32}


def test_compiled_second_derivatives_are_in_bfloat16(counted):
    model = make_model(torch.float32)
    execute(model, "bfloat16", compiled=True)
    train("grad-align", model, sizes=(5,))
    nodes = [node for graphs in counted.values() for graph in graphs for node in graph.graph.nodes]
    outputs = [node.meta["val"] for node in nodes if "convolution" in str(node.target)]
    assert {t.dtype for o in outputs for t in ((o,) if isinstance(o, torch.Tensor) else o) if t is not None} == {
        torch.bfloat16
    }
    assert {t.dtype for p in model.parameters() for t in (p, p.grad)} == {torch.float32}


def test_step_sizes_have_float32_gradients_in_bfloat16():
    """Of a sum over thousands of pixels, bfloat16 would keep two or three digits."""
    gradients = {}
    for precision in ("float32", "bfloat16"):
        model = make_model(torch.float32)
        execute(model, precision)
        _, method = train("apart", model, sizes=(5,))
        gradients[precision] = method.alpha.grad
    assert gradients["bfloat16"].dtype == torch.float32
    rounded = gradients["bfloat16"].bfloat16().float()
    assert not torch.equal(gradients["bfloat16"], rounded)
    assert torch.allclose(gradients["bfloat16"], gradients["float32"], rtol=0.3, atol=0.03)


def test_auto_is_bfloat16_on_a_gpu_that_has_it(monkeypatch):
    assert resolve("auto", torch.device("cpu")) == "float32"
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, there=there: there)
        assert resolve("auto", torch.device("cuda")) == ("bfloat16" if there else "float32")
    assert resolve("bfloat16", torch.device("cpu")) == "bfloat16"
    with pytest.raises(UserError, match="precision must be one of auto, float32, bfloat16, not 'half'"):
        tiny_config("fgsm", precision="half")


def precision_of(model: nn.Module) -> torch.dtype:
    with Dtypes() as dtypes, torch.no_grad():
        model(torch.rand(2, *SIZE))
    (dtype,) = dtypes.seen
    return dtype


def test_a_run_is_resumed_and_measured_in_its_precision(tmp_path, monkeypatch):
    out, config = tmp_path / "run", tiny_config("fgsm", epochs=2)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(loop, "resolve", lambda precision, device: "bfloat16")  # as on a GPU
        training = epochs(config, out, device="cpu")
        next(training)
        training.close()
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(
            loop, "execute", lambda model, precision, **kw: seen.append(precision) or execute(model, precision)
        )
        list(epochs(config, out, resume=True, device="cpu"))
    run = co_probe.open_run(out)
    assert seen == ["bfloat16"] and run.environment["precision"] == "bfloat16" and run.epochs == [1, 2]
    export(run, 2, tmp_path / "model.pt")
    assert (
        precision_of(run.load_model(2)) == precision_of(load_reference(tmp_path / "model.pt").model) == torch.bfloat16
    )
    list(epochs(config, tmp_path / "here", device="cpu"))
    assert precision_of(co_probe.open_run(tmp_path / "here").load_model(1)) == torch.float32

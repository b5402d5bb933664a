"""Compiled against plain, bfloat16 against float32: the same updates, to rounding, by every method."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from co_probe.attacks import FGSM, input_gradient
from co_probe.attacks.outcome import evaluating
from co_probe.data.augment import pad_images, random_view
from co_probe.methods import METHODS
from co_probe.methods.base import Batch, Task
from co_probe.models import execution
from co_probe.models.execution import compiling, execute, resolve
from co_probe.models.preact_resnet import PreActResNet
from co_probe.training.loop import train_step

COUNT, SIZE, EPSILON = 12, (1, 8, 8), 0.1
COMPILABLE = [name for name in METHODS if not METHODS.load(name).eager]


def make_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    """In float64, so that the sign of a gradient is never a matter of rounding."""
    torch.manual_seed(0)
    return PreActResNet(1, 3, (0.3,), (0.5,), width=4, blocks=(1, 1)).to(dtype).train()


def train(name: str, model: nn.Module, steps: int = 3, **settings) -> tuple[nn.Module, dict]:
    """A few steps, the last on a smaller batch; the model and the method's state afterwards."""
    dtype = next(model.parameters()).dtype
    rng = torch.Generator().manual_seed(0)
    method = METHODS.make(name, EPSILON, **settings)
    method.setup(model, Task(COUNT, SIZE, 1, 4, torch.device("cpu"), rng))
    if hasattr(method, "alpha") and isinstance(method.alpha, torch.Tensor):
        with torch.no_grad():
            method.alpha.fill_(0.4)  # far from the start, so that the taps matter
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images = pad_images(torch.rand((COUNT, *SIZE), generator=rng, dtype=dtype), 1)
    labels = torch.randint(3, (COUNT,), generator=rng)
    method.start_epoch(1, rng)
    for number in range(steps):
        index = torch.randperm(COUNT, generator=rng)[: 5 if number < steps - 1 else 3]
        view = random_view(index, SIZE[1:], 1, True, rng)
        with compiling(model):
            train_step(model, method, optimizer, Batch(view.take(images), labels[index], view, 0.5, rng), 0.1)
    return model, method.state_dict()


def compiled(monkeypatch, backend: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    monkeypatch.setattr(execution, "BACKEND", backend)
    model = make_model(dtype)
    execute(model, "float32", compiled=True)
    return model


@pytest.mark.parametrize("name", COMPILABLE)
def test_compiled_and_plain_give_the_same_update(name, monkeypatch):
    torch._dynamo.reset()
    plain, plain_state = train(name, make_model())
    fast, fast_state = train(name, compiled(monkeypatch, "aot_eager"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[key], value, rtol=1e-6, atol=1e-9)
    for key, value in plain_state.items():
        torch.testing.assert_close(fast_state[key], value, rtol=1e-5, atol=1e-6)

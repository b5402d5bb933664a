"""What a GPU alone can show: CUDA graphs, bfloat16, and copies beside training give what plain code gives; memory."""

import numpy as np
import pytest
import torch
from conftest import TINY
from test_execution import ON_IMAGES, assert_same, make_model, train

import co_probe
from co_probe.benchmarks.setup import Setup
from co_probe.config.presets import configure
from co_probe.inference.execution import execute
from co_probe.training.loop import epochs
from co_probe.training.state import copying_stream, snapshot

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = torch.device("cuda")


def compiled_on_gpu() -> torch.nn.Module:
    model = make_model().to(DEVICE)
    execute(model, "float64", compiled=True)
    return model


@pytest.mark.parametrize("name", ON_IMAGES)
def test_cuda_graphs_give_the_same_update(name):
    torch._dynamo.reset()
    assert_same(*(train(name, model, sizes=[5] * 5 + [3]) for model in (make_model().to(DEVICE), compiled_on_gpu())))


@pytest.mark.parametrize("compile", [False, True])
def test_a_run_is_resumed_and_measured(tmp_path, compile, monkeypatch):
    """In float32: what a killed run and its successor end with is what one that was not killed ends with."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # APART's signs magnify differences of rounding
    config = configure("digits", "apart", TINY, {"precision": "float32"})
    options = {"device": "cuda", "compile": compile}
    list(epochs(config, tmp_path / "whole", **options))
    broken = epochs(config, tmp_path / "broken", **options)
    next(broken)
    broken.close()
    list(epochs(config, tmp_path / "broken", resume=True, **options))
    whole, broken_off = (co_probe.open_run(tmp_path / name) for name in ("whole", "broken"))
    assert whole.epochs == broken_off.epochs == [1, 2, 3]
    for name, value in whole.weights(3).items():  # some kernels add up in any order
        np.testing.assert_allclose(broken_off.weights(3)[name], value, rtol=0.05, atol=0.01)
    plain = co_probe.gap(whole, against="pgd3", device="cuda")
    (tmp_path / "whole" / "results.h5").unlink()
    fast = co_probe.gap(tmp_path / "whole", against="pgd3", device="cuda", compile=True)
    np.testing.assert_allclose(fast["value"], plain["value"], rtol=0.05, atol=0.05)


def test_a_copy_is_not_changed_by_further_training():
    stream, weights = copying_stream(DEVICE), torch.zeros(10_000_000, device=DEVICE)
    kept = []
    for number in range(20):
        weights += 1
        kept.append((number + 1, snapshot({"weights": weights}, stream)["weights"]))
    for expected, copy in kept:
        array = copy[...]
        assert array.min() == array.max() == expected


def test_auto_selects_bfloat16_which_learns(tmp_path):
    config = configure("digits", "fgsm", TINY, {"epochs": 6, "batch_size": 32, "epsilon": 0.05})
    *_, last = epochs(config, tmp_path / "run", device="cuda")
    assert co_probe.open_run(tmp_path / "run").precision == "bfloat16"
    assert last.clean > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_an_apart_run_on_cifar_10_fits_in_4_gb(compiled, tmp_path):
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    setup = Setup("cifar10-30", {}, ["apart"], 1, "cuda", tmp_path, compiled, None)
    trainer = setup.trainer("apart", compiled=compiled)
    for _ in range(3):
        trainer.step()
    assert torch.cuda.max_memory_reserved() < 4e9

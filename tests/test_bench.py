import pytest

from co_probe.bench import bench
from co_probe.errors import UserError

SMALL = {"batch_size": 16, "model": {"width": 8}, "data": {"size": 8}}


def test_passes_are_those_of_the_methods_formulas():
    frame = bench(["fgsm", "pgd", "apart-simple", "free"], settings=SMALL, repeats=1, device="cpu")
    passes = frame.set_index("method")["passes"]
    assert list(passes.index) == ["standard", "apart-simple", "fgsm", "free", "pgd"]
    # Clean training: a forward pass and two for the backward one, but the first layer needs no input gradient.
    assert 2.8 < passes["standard"] <= 3
    # A perturbation pass takes a forward and one backward pass, and computes no gradient for weights.
    assert passes["fgsm"] == pytest.approx(passes["standard"] + 2, abs=0.05)
    assert passes["pgd"] == pytest.approx(passes["standard"] + 20, abs=0.3)
    assert passes["apart-simple"] == pytest.approx(passes["fgsm"], abs=0.1)
    assert passes["free"] == pytest.approx(3, abs=0.01)
    assert (frame["seconds"] > 0).all() and frame["ratio"][0] == 1


def test_unknown_method():
    with pytest.raises(UserError, match="unknown method 'fgms': did you mean fgsm"):
        bench(["fgms"])

"""Checkpoints as other programs save them."""

import argparse
import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

from co_probe.errors import DamagedFile, UserError
from co_probe.runs.state_dicts import StateDict, fit, read_state_dict


class Net(nn.Module):
    """A foreign network whose body is called `model`, as one of the usual prefixes."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.LazyLinear(classes))

    def forward(self, x):
        return self.model(x)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Net()
    model(torch.rand(2, 1, 6, 6))
    return model


def saved(tmp_path, content):
    torch.save(content, tmp_path / "m.pth")
    return tmp_path / "m.pth"


def prefixed(model, prefix):
    return {f"{prefix}{name}": value for name, value in model.state_dict().items()}


def loads(path, model, **options):
    """The note of a file that fits `model`, whose weights are compared bit by bit."""
    fitted = fit(read_state_dict(path, **options), model)
    assert all(torch.equal(fitted.weights[name], value) for name, value in model.state_dict().items())
    assert fitted.weights.keys() == model.state_dict().keys()
    return fitted.note


def test_a_plain_state_dict_needs_no_option(tmp_path, net):
    assert loads(saved(tmp_path, net.state_dict()), net) == ""


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "model_state_dict", "ema"])
def test_the_usual_entries_are_unwrapped(tmp_path, net, key):
    content = {"epoch": 3, key: net.state_dict(), "optimizer": {"state": {}, "param_groups": []}}
    assert f"taken from its entry '{key}'" in loads(saved(tmp_path, content), net)


def test_the_weights_come_before_their_average_and_a_key_chooses(tmp_path, net):
    other = {name: value + 1 for name, value in net.state_dict().items()}
    path = saved(tmp_path, {"ema": other, "state_dict": net.state_dict()})
    loads(path, net)
    assert torch.equal(
        fit(read_state_dict(path, key="ema"), net).weights["model.0.bias"], net.state_dict()["model.0.bias"] + 1
    )
    nested = saved(tmp_path, {"a": {"b": net.state_dict()}})
    loads(nested, net, key="a.b")
    with pytest.raises(UserError, match=r"no entry 'c'.*it has a"):
        read_state_dict(nested, key="c")
    with pytest.raises(UserError, match="no state dict: it has a"):
        read_state_dict(nested)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.module."])
def test_the_usual_prefixes_are_stripped_and_a_part_of_that_name_stays(tmp_path, net, prefix):
    assert "stripped of" in loads(saved(tmp_path, prefixed(net, prefix)), net)


def test_a_wrapper_inside_of_a_sequence_is_stripped(tmp_path, net):
    inside = nn.Sequential(nn.Identity(), copy.deepcopy(net))
    names = {name.replace("1.", "1.module.", 1): value for name, value in inside.state_dict().items()}
    assert "'module.'" in loads(saved(tmp_path, names), inside)


def test_strip_overrides(tmp_path, net):
    path = saved(tmp_path, prefixed(net, "backbone."))
    assert loads(path, net, strip="backbone.")
    with pytest.raises(UserError):
        fit(read_state_dict(path), net)
    with pytest.raises(UserError):
        fit(read_state_dict(saved(tmp_path, prefixed(net, "module.")), strip=""), net)


def test_an_averaged_model_of_torch_loads(tmp_path, net):
    averaged = torch.optim.swa_utils.AveragedModel(net)
    loads(saved(tmp_path, averaged.state_dict()), net)


def test_half_precision_is_converted_with_a_message(tmp_path, net):
    fitted = fit(read_state_dict(saved(tmp_path, copy.deepcopy(net).half().state_dict())), net)
    assert fitted.weights["model.0.weight"].dtype == torch.float32
    torch.testing.assert_close(fitted.weights["model.0.weight"], net.model[0].weight.detach(), atol=1e-3, rtol=1e-3)
    assert "converted from float16" in fitted.note


def test_the_format_before_torch_1_6_and_files_without_counters_load(tmp_path, net):
    old = {name: value for name, value in net.state_dict().items() if "num_batches" not in name}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loads(tmp_path / "old.pth", net)


def test_arguments_and_numpy_scores_in_a_checkpoint_are_ignored(tmp_path, net):
    content = {"net": net.state_dict(), "args": argparse.Namespace(lr=0.1), "best": np.float64(0.8), "n": np.int64(3)}
    loads(saved(tmp_path, content), net)


def test_a_whole_pickled_model_is_refused_with_the_code_that_converts_it(tmp_path, net):
    path = saved(tmp_path, net)
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert "\n" not in message and "Net" in message
    code = re.search(r"model = .*", message)[0]
    exec(code.replace('"m', f'"{tmp_path}/m'), {"torch": torch})
    loads(tmp_path / "m_weights.pth", net)


def test_no_code_of_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with pytest.raises(UserError, match="could run anything"):
        read_state_dict(saved(tmp_path, {"state_dict": {"w": torch.zeros(1)}, "x": Evil()}))
    assert not (tmp_path / "ran").exists()


def test_names_that_do_not_match_are_given_with_the_nearest(tmp_path, net):
    wrong = {name.replace("model.0.weight", "model.0.wieght"): value for name, value in net.state_dict().items()}
    with pytest.raises(
        UserError, match=r"1 of the model's 9 .*model\.0\.weight \(nearest: model\.0\.wieght\)"
    ) as caught:
        fit(read_state_dict(saved(tmp_path, wrong)), net)
    assert "\n" not in str(caught.value)


def test_other_shapes_are_refused_before_anything_is_copied(tmp_path, net):
    weights = net.state_dict() | {"model.0.weight": torch.zeros(1).expand(10**9, 1, 3, 3)}  # 36 GB, if it were copied
    with pytest.raises(UserError, match=r"\(1000000000, 1, 3, 3\) in the file and \(3, 1, 3, 3\) in the model"):
        fit(StateDict(weights, "weights"), net)
    with pytest.raises(DamagedFile, match=r"\(1000000000, 1, 3, 3\), of which only a part is stored"):
        read_state_dict(saved(tmp_path, weights))


def test_files_that_are_not_checkpoints(tmp_path, net):
    (tmp_path / "text.pth").write_text("hello")
    whole = saved(tmp_path, net.state_dict()).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").touch()
    for name in ("text.pth", "cut.pth", "empty.pth"):
        with pytest.raises(DamagedFile) as caught:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="holds a list"):
        read_state_dict(saved(tmp_path, [1, 2]))
    with pytest.raises(UserError, match="does not exist"):
        read_state_dict(tmp_path / "none.pth")

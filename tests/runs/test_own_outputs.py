"""A user's own model is tried before it is trained: what it returns must be logits of the data set's classes."""

import sys
from types import ModuleType

import pytest
import torch
from conftest import tiny_config
from torch import nn

from co_probe.errors import UserError
from co_probe.training.loop import epochs


class Own(nn.Module):
    """Its outputs may be of another shape than (n, 10)."""

    outputs, batch = 10, 0

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(64), nn.Linear(64, self.outputs)

    def forward(self, x):
        return self.linear(self.norm(x.flatten(1)))


class Few(Own):
    outputs = 5


class Many(Own):
    outputs = 12


class One(Own):
    outputs = 1


class Flat(Own):
    def forward(self, x):
        return super().forward(x)[:, 0]


class Text(Own):
    def forward(self, x):
        return "logits"


class OtherImages(Own):
    def forward(self, x):
        return self.linear(x)


class Tuple(Own):
    def forward(self, x):
        return super().forward(x), x


@pytest.fixture(autouse=True)
def allowed(monkeypatch) -> None:
    module = ModuleType("own_outputs")
    for model in (Own, Few, Many, One, Flat, Text, OtherImages, Tuple):
        setattr(module, model.__name__, model)
    monkeypatch.setitem(sys.modules, "own_outputs", module)
    monkeypatch.setenv("CO_PROBE_ALLOW", "own_outputs")


def train(model: str, out) -> list:
    return list(epochs(tiny_config("fgsm", model=f"own_outputs:{model}", epochs=1, batch_size=512), out, device="cpu"))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("Few", r"returned \(2, 5\) for 2 images, and logits of shape \(n, classes\) are needed, \(2, 10\)"),
        ("Many", r"returned \(2, 12\) for 2 images"),
        ("One", r"returned \(2, 1\) for 2 images"),
        ("Flat", r"returned \(2,\) for 2 images"),
        ("Text", "must return logits"),
        ("OtherImages", r"fails on images of shape \(2, 1, 8, 8\) with RuntimeError"),
    ],
)
def test_other_outputs_are_refused_before_anything_is_written(model, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        train(model, tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["Own", "Tuple"])
def test_logits_are_accepted_and_the_trial_has_no_side_effects(model, tmp_path, monkeypatch):
    from co_probe.runs import build

    (tried,) = train(model, tmp_path / "run")
    monkeypatch.setattr(build, "require_logits", lambda *_: None)
    (plain,) = train(model, tmp_path / "plain")
    assert tried.train_loss == plain.train_loss and tried.clean == plain.clean


def test_the_trial_changes_neither_modes_nor_statistics():
    from co_probe.runs.fitting import require_logits

    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 10)).train()
    model[1].eval()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    require_logits(model, "it", (1, 8, 8), 10)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)

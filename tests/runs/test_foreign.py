"""Models of other programs."""

import functools
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import co_probe
from co_probe.errors import UserError
from co_probe.models.foreign import ForeignModel, logits_of
from co_probe.models.preact_resnet import PreActResNet
from co_probe.runs.foreign import class_name, resolve_model
from co_probe.runs.state_dicts import StateDict, fit

MEAN, STD = (0.2,), (0.5,)
X = torch.rand(5, 1, 8, 8).contiguous(memory_format=torch.channels_last)


class SmallNet(nn.Module):
    """No arguments, normalised images, features flattened by `view`: a real client's network."""

    def __init__(self, classes=4):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.fc = nn.Linear(6 * 36, classes)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.fc(x.view(x.size(0), -1))


class Sized(SmallNet):
    def __init__(self, in_ch, num_classes=10):
        assert in_ch == 1
        super().__init__(num_classes)


def factory():
    return SmallNet(4)


def own(channels, classes, mean, std, *, width=8):
    return PreActResNet(channels, classes, mean, std, width=width, blocks=(1,))


def build(given, **options):
    return resolve_model(given, channels=1, classes=4, **options)


@pytest.mark.parametrize("given", [SmallNet(), SmallNet, factory, functools.partial(SmallNet, 4), lambda: SmallNet()])
def test_objects_classes_and_functions(given):
    built = build(given, mean=MEAN, std=STD)
    assert isinstance(built.model, ForeignModel) and built.foreign
    normalised = ((X - MEAN[0]) / STD[0]).contiguous(memory_format=torch.contiguous_format)
    torch.testing.assert_close(built.model(X), built.model.network(normalised.clone()))
    assert list(built.model.state_dict()) == ["conv.weight", "conv.bias", "fc.weight", "fc.bias"]
    other = build(given).model
    other.load_state_dict(built.model.state_dict())
    torch.testing.assert_close(other(normalised), built.model(X))


def test_the_number_of_classes_and_channels_is_given_where_it_is_taken():
    built = build(Sized)
    assert built.model(X).shape == (5, 4)
    assert built.settings == {"in_ch": 1, "num_classes": 4}
    assert build(Sized, settings={"num_classes": 7}).model(X).shape == (5, 7)


def test_a_given_model_is_not_changed():
    given = SmallNet()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    with torch.no_grad():
        build(given).model.network.conv.weight.zero_()
    assert all(torch.equal(given.state_dict()[name], value) for name, value in before.items())


def test_names_are_imported_only_if_they_are_allowed(tmp_path, monkeypatch):
    (tmp_path / "their_model.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\nNUMBER = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CO_PROBE_ALLOW", "")
    with pytest.raises(UserError, match="allow"):
        build("their_model:make")
    assert "their_model" not in sys.modules
    co_probe.allow("their_model:make")
    built = build("their_model:make")
    assert built.name == "their_model:make" and built.model(X.contiguous()).shape == (5, 4)
    sys.modules.pop("their_model")


def test_registered_names_normalise_by_themselves():
    built = build("preact_resnet", mean=MEAN, std=STD, settings={"width": 8, "blocks": [1]})
    assert (built.foreign, built.name, built.settings) == (False, "preact_resnet", {"width": 8, "blocks": [1]})
    assert built.own == ("normalize.mean", "normalize.std")
    assert built.model.normalize.mean.item() == pytest.approx(0.2)
    mine = build(own, mean=MEAN, std=STD, settings={"width": 4})
    assert not mine.foreign and mine.settings == {"width": 4} and mine.model.normalize.std.item() == 0.5


def test_weights_of_torchvision_load_by_its_own_names():
    from torchvision.models import shufflenet_v2_x0_5

    theirs = shufflenet_v2_x0_5(weights=None, num_classes=4).eval()
    built = resolve_model("torchvision:shufflenet_v2_x0_5", channels=3, classes=4, mean=[0.5] * 3, std=[0.5] * 3)
    fitted = fit(StateDict(theirs.state_dict(), "file"), built.model, optional=built.own)
    built.model.load_state_dict(fitted.weights)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(built.model.eval()(x), theirs((x - 0.5) / 0.5))


@pytest.mark.parametrize(
    "given, said",
    [
        ("smallnet", "unknown model"),
        (3, "not int"),
        (nn.Linear, "needs in_features, out_features"),
        (dict, "gave dict, not torch.nn.Module"),
        (lambda: 1 / 0, "fails with ZeroDivisionError"),
    ],
)
def test_an_object_that_is_not_a_model_is_refused(given, said):
    with pytest.raises(UserError, match=said) as caught:
        build(given)
    assert "\n" not in str(caught.value)


def test_settings_are_checked():
    with pytest.raises(UserError, match="classess"):
        build(SmallNet, settings={"classess": 3})
    with pytest.raises(UserError, match="built already"):
        build(SmallNet(), settings={"classes": 3})


def test_names_of_classes():
    class Local(nn.Module):
        pass

    assert class_name(SmallNet()) == class_name(SmallNet) == f"{__name__}:SmallNet"
    assert class_name(Local()) == "Local"


def test_outputs_that_hold_logits_are_taken():
    logits = torch.rand(2, 3)
    for output in (logits, (logits, 1), [logits, logits + 1], {"logits": logits}, SimpleNamespace(logits=logits)):
        assert logits_of(output) is logits
    for output in (3, {"out": logits}, (), ([logits],), None):
        with pytest.raises(UserError, match="must return logits"):
            logits_of(output)

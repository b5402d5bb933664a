from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn

from co_probe import indicators
from co_probe.attacks import FGSM, PGD
from co_probe.errors import UserError
from co_probe.inference.evaluation import outcome, perturb
from co_probe.inference.forward import Forward
from co_probe.methods import METHODS
from co_probe.runs.training_attack import training_attack

MODES = ("both", "update", "eval")


def normed_model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*layers).train()


def images(count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, 6, 6, generator=rng), torch.randint(3, (count,), generator=rng)


def modes(model: nn.Module) -> list[tuple[bool, bool | None, bool]]:
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    return [(m.training, getattr(m, "track_running_stats", None), all(frozen)) for m in model.modules()]


@pytest.mark.parametrize("batchnorm", MODES)
def test_a_pass_has_its_mode_and_leaves_none(batchnorm):
    model, (x, _) = normed_model(), images()
    model[2].eval()  # a mode of its own, to be kept
    before, seen = modes(model), []
    model[1].register_forward_pre_hook(lambda norm, _: seen.append((norm.training, norm.track_running_stats)))
    Forward(model, batchnorm=batchnorm)(x)
    assert seen == [{"both": (True, True), "update": (True, False), "eval": (False, True)}[batchnorm]]
    assert modes(model) == before
    assert model[1].num_batches_tracked == (batchnorm == "both")


def test_the_mode_is_undone_when_a_pass_fails():
    model = normed_model()
    before = modes(model)
    for batchnorm in MODES:
        with pytest.raises(RuntimeError):
            Forward(model, batchnorm=batchnorm)(torch.rand(2, 3, 6, 6))
    assert modes(model) == before


def test_hooks_of_the_module_see_every_pass():
    model, (x, y), seen = normed_model(), images(), []
    model.register_forward_hook(lambda module, args, logits: seen.append(len(logits)))
    PGD(epsilon=0.1, steps=3)(Forward(model).for_perturbation("update"), x, y)
    assert seen == [7, 7, 7]


def test_it_is_frozen_and_another_mode_is_another_object():
    forward = Forward(normed_model())
    with pytest.raises(FrozenInstanceError):
        forward.batchnorm = "eval"
    assert forward.for_perturbation("update").weight_gradients is False and forward.weight_gradients
    assert Forward.of(forward) is forward and Forward.of(forward.model).model is forward.model


def test_modes_that_are_none_are_refused():
    with pytest.raises(ValueError, match="batchnorm must be 'both', 'update' or 'eval', not 'train'"):
        Forward(normed_model(), batchnorm="train")
    with pytest.raises(ValueError, match="not built to run compiled"):
        Forward(normed_model(), compiled=True)
    with pytest.raises(TypeError, match=r"an nn\.Module or a Forward, not function"):
        Forward.of(lambda x: x)


@pytest.mark.parametrize(
    "name", ["fgsm", "fgsm-rs", "n-fgsm", "s-fgsm", "pgd", "apart", "atta", "trades", "grad-align"]
)
def test_methods_and_attacks_take_a_module_as_well(name):
    method, (x, y) = METHODS.make(name), images()
    deltas = []
    for model in (normed_model().eval(), Forward(normed_model(), batchnorm="eval")):
        rng = torch.Generator().manual_seed(2)
        deltas.append(method.perturb(model, x, y, epsilon=0.1, rng=rng))
    assert torch.equal(*deltas)


def test_evaluation_takes_a_module_as_well():
    (x, y), model = images(), normed_model()
    of_module, of_forward = (outcome(given, x, y).loss for given in (model, Forward(model)))
    assert torch.equal(of_module, of_forward)
    assert torch.equal(*(perturb(given, FGSM(epsilon=0.1), x, y) for given in (model, Forward(model))))


def test_a_function_of_a_users_gets_the_module_itself():
    (x, y), model, seen = images(), normed_model(), []

    def theirs(network, x, y):
        seen.append((network, network.training))
        network.zero_grad()
        return torch.zeros_like(x)

    perturb(model, training_attack(theirs, epsilon=0.1).perturb, x, y)
    assert seen == [(model, False)] and model.training


def test_images_are_checked_once_at_the_public_interface():
    model, (x, y) = normed_model(), images()
    with pytest.raises(UserError, match="images must be within 0 and 1"):
        FGSM(epsilon=0.1)(Forward(model), x + 1, y)
    with pytest.raises(UserError, match="images must be within 0 and 1"):
        PGD(epsilon=0.1).robust_mask(model, x + 1, y)
    assert (
        PGD(epsilon=0.1).robust_mask_unchecked(model, x + 1, y).shape
        == perturb(model, FGSM(epsilon=0.1), x + 1, y).shape[:1]
    )


def test_as_module_gives_the_module_in_its_mode():
    model, (x, _) = normed_model(), images()
    forward = replace(Forward(model), batchnorm="eval")
    assert torch.equal(forward.as_one(lambda module, x: module(x) * 2, x), forward(x) * 2)
    assert forward.as_one(lambda module, x: torch.tensor(module is model and not module.training), x)


@pytest.mark.parametrize("name", ["distortion", "masking", "noise_accuracy"])
def test_indicators_check_images_unless_they_are_known_to_be_good(name):
    measure, (x, y) = getattr(indicators, name), images()
    with pytest.raises(UserError, match="images must be within 0 and 1"):
        measure(normed_model(), x + 1, y, epsilon=0.1)
    measure(normed_model(), x + 1, y, epsilon=0.1, checked=True)

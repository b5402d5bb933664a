"""AAER: the regulariser on abnormal examples, image by image."""

import pytest
import torch
from formulas import (
    EPSILON,
    SLOW,
    assert_gradients,
    images,
    into_image,
    loss_of,
    make,
    make_batch,
    seeded,
    slow_cross_entropy,
    small_model,
    uniform,
    weight_gradients,
)

from co_probe.errors import UserError
from co_probe.methods import METHODS

REACH = {"fgsm-rs": 1, "n-fgsm": 2}  # of the noise, in units of ε
KNOWN = {"fgsm-rs": (2.5, 1.5), "n-fgsm": (1.5, 0.15)}


def sharp_model(seed: int = 5):
    """Curved enough for a step along the gradient's sign to lower the loss of some images."""
    model = small_model(seed)
    with torch.no_grad():
        model[0].weight.mul_(20)
    return model


def slow_loss(model, x, y, base, weights, detach):
    """The loss, the number of abnormal images, and by how much their logits change more than others'."""
    noises = uniform(x, REACH[base] * EPSILON, seeded())
    deltas = SLOW[base](model, x, y, seeded())
    loss_weight, logit_weight = weights
    falls, abnormal, normal = [], [], []
    for image, label, noise, delta in zip(x, y, noises, deltas, strict=True):
        start = image + into_image(image, noise)
        before, after = loss_of(model, start, label).detach(), loss_of(model, image + delta, label)
        change = ((model((image + delta)[None]) - model(start[None]).detach()) ** 2).sum()
        if before > after:
            falls.append(before - (after.detach() if detach else after))
            abnormal.append(change)
        else:
            normal.append(change.detach())
    loss = slow_cross_entropy(model, x, y, deltas)
    if abnormal and normal:
        excess = sum(abnormal) / len(abnormal) - sum(normal) / len(normal)
        counted = excess if excess > 0 else 0
        loss = loss + len(abnormal) / len(x) * (loss_weight * sum(falls) / len(falls) + logit_weight * counted)
    return loss, len(abnormal), excess


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("base", "seed", "more"), [("fgsm-rs", 3, True), ("n-fgsm", 5, True), ("fgsm-rs", 5, False)])
def test_aaer_descends_loss_and_regulariser(base, seed, more, detach):
    model, (x, y) = sharp_model(seed), images()
    result = make("aaer", model, base=base, detach=detach).step(model, make_batch(x, y, seeded()))
    loss, count, excess = slow_loss(model, x, y, base, KNOWN[base], detach)
    assert 0 < count < len(x) and (excess > 0) == more
    assert_gradients(model, weight_gradients(model, loss))
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-9)


def test_both_terms_count_when_asked_for():
    model, (x, y) = sharp_model(), images()
    gradients = []
    for settings in ({}, {"logit_weight": 9.0}, {"loss_weight": 9.0, "detach": False}, {"loss_weight": 9.0}):
        model.zero_grad()
        make("aaer", model, **settings).step(model, make_batch(x, y, seeded()))
        gradients.append(model[0].weight.grad.clone())
    assert not torch.allclose(gradients[0], gradients[1]) and not torch.allclose(gradients[0], gradients[2])
    assert torch.equal(gradients[0], gradients[3])  # as the released code: the loss is a constant


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_without_one_of_the_two_groups_there_is_no_regulariser(gain):
    before = torch.zeros(4, 3)
    after = before + gain * torch.tensor([2.0, 0.0, 0.0])
    losses = torch.ones(4)
    method = METHODS.make("aaer")
    assert method.regulariser(before, after, losses, losses + 0.1) == 0  # all normal
    assert method.regulariser(before, after, losses, losses - 0.1) == 0  # all abnormal


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"base": "pgd"}, "base"), ({"loss_weight": -1.0}, "loss_weight"), ({"logit_weight": -1.0}, "logit_weight")],
)
def test_settings_out_of_range_are_named(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        METHODS.make("aaer", **settings)

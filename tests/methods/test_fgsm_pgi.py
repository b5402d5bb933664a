"""FGSM-PGI: its three priors and its penalty, image by image, through crops, flips and epochs."""

import pytest
import torch
from formulas import (
    EPSILON,
    ROUNDED,
    SIZE,
    assert_gradients,
    crop,
    gradient_of,
    images,
    into_image,
    make,
    make_batch,
    paste,
    seeded,
    sign_of,
    slow_cross_entropy,
    small_model,
    weight_gradients,
)

from co_probe.data.augment import random_view
from co_probe.errors import UserError
from co_probe.methods import METHODS


def ball(image, delta):
    return into_image(image, torch.clip(delta, -EPSILON, EPSILON))


def slow_loss(model, seen, labels, starts, deltas):
    """Cross-entropy at x + δ, and ten times the mean squared change of a logit on the way from x + η."""
    change, logits = 0, 0
    for image, start, delta in zip(seen, starts, deltas, strict=True):
        before, after = model((image + start)[None])[0], model((image + delta)[None])[0]
        change, logits = change + ((after - before) ** 2).sum(), logits + len(after)
    return slow_cross_entropy(model, seen, labels, deltas) + 10 * change / logits


@pytest.mark.parametrize("prior", ["mep", "ep"])
def test_priors_of_the_last_epoch_move_with_their_image(prior):
    model, (x, y) = small_model(), images(9)
    method = make("fgsm-pgi", model, count=9, padding=2, prior=prior)
    assert sorted(set(method.eta.flatten().tolist())) == pytest.approx([-EPSILON, EPSILON])
    padded = torch.nn.functional.pad(x, (2,) * 4)
    kept = [eta.double() for eta in method.eta.clone()]
    moments = [torch.zeros(1, 10, 10, dtype=torch.float64) for _ in range(9)]
    rng = seeded()
    for _ in range(3):
        for index in torch.randperm(9, generator=rng).split(5):
            view = random_view(index, (6, 6), 2, True, rng)
            model.zero_grad()
            result = method.step(model, make_batch(view.take(padded), y[index], rng, view))

            places, seen, starts, gradients = [], [], [], []
            for place, number in enumerate(index.tolist()):
                flipped = bool(view.columns[place, 0] > view.columns[place, 1])
                places.append((int(view.rows[place].min()), int(view.columns[place].min()), flipped))
                seen.append(crop(padded[number], *places[-1]))
                starts.append(ball(seen[-1], crop(kept[number], *places[-1])))
                gradients.append(gradient_of(model, seen[-1] + starts[-1], y[number]))
            deltas = [ball(a, s + EPSILON * g.sign()) for a, s, g in zip(seen, starts, gradients, strict=True)]
            total = sum(gradient.abs().sum() for gradient in gradients)
            for place, number in enumerate(index.tolist()):
                moment = 0.3 * crop(moments[number], *places[place]) + gradients[place] / total
                paste(moments[number], moment, *places[place])
                further = ball(seen[place], starts[place] + EPSILON * moment.sign())
                paste(kept[number], further if prior == "mep" else deltas[place], *places[place])
            loss = slow_loss(model, seen, y[index], starts, deltas)
            assert_gradients(model, weight_gradients(model, loss), ROUNDED)
            assert result.loss.item() == pytest.approx(loss.item(), rel=1e-5)
            torch.testing.assert_close(method.eta.double(), torch.stack(kept), rtol=0, atol=1e-6)
            if prior == "mep":
                torch.testing.assert_close(method.moment.double(), torch.stack(moments), rtol=1e-5, atol=1e-7)
    some = torch.tensor([4, 1])
    expected = torch.stack([kept[4], kept[1]])[:, :, 2:8, 2:8]
    torch.testing.assert_close(method.image_state(some).double(), expected, rtol=0, atol=1e-6)


def test_the_prior_of_the_previous_batch_goes_by_the_place_in_the_batch():
    model, (x, y) = small_model(), images(18)
    method, kept = make("fgsm-pgi", model, prior="bp"), []
    for start, end in ((0, 6), (6, 12), (12, 14), (14, 18)):
        model.zero_grad()
        method.step(model, make_batch(x[start:end], y[start:end], seeded()))
        if not kept:  # what it was drawn as; the first image has stepped since
            kept = [
                EPSILON * sign.double() for sign in torch.empty(6, *SIZE).uniform_(-1, 1, generator=seeded()).sign()
            ]
        starts = [ball(x[start + i], kept[i]) for i in range(end - start)]
        seen, labels = x[start:end], y[start:end]
        signs = [sign_of(model, a + s, b) for a, s, b in zip(seen, starts, labels, strict=True)]
        deltas = [ball(a, s + EPSILON * sign) for a, s, sign in zip(seen, starts, signs, strict=True)]
        assert_gradients(model, weight_gradients(model, slow_loss(model, seen, labels, starts, deltas)), ROUNDED)
        kept[: len(deltas)] = deltas
        torch.testing.assert_close(method.eta.double(), torch.stack(kept), rtol=0, atol=1e-7)
    assert method.image_state(torch.tensor([0])) is None


def test_priors_start_afresh_every_so_many_epochs():
    for reset, expected in ((3, [4, 7]), (1, [2, 3, 4, 5, 6, 7])):
        method, afresh = make("fgsm-pgi", small_model(), reset=reset), []
        for epoch in range(1, 8):
            before = method.eta.clone()
            method.moment.fill_(1.0)
            method.start_epoch(epoch, seeded(epoch))
            new = not torch.equal(before, method.eta)
            assert new == (not method.moment.any())
            afresh += [epoch] * new
        assert afresh == expected


def test_without_prior_and_penalty_it_is_fgsm():
    model, (x, y) = small_model(), images()
    method = make("fgsm-pgi", model, penalty=0.0)
    method.eta.zero_()
    method.step(model, make_batch(x, y, seeded()))
    deltas = [into_image(a, EPSILON * sign_of(model, a, b)) for a, b in zip(x, y, strict=True)]
    assert_gradients(model, weight_gradients(model, slow_cross_entropy(model, x, y, deltas)), ROUNDED)
    delta = method.perturb(model, x, y, epsilon=EPSILON)  # on unseen images
    torch.testing.assert_close(delta, torch.stack(deltas), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"prior": "random"}, "prior"),
        ({"penalty": -1.0}, "penalty"),
        ({"momentum": -1.0}, "momentum"),
        ({"relative_step": 0}, "relative_step"),
        ({"reset": 0}, "reset"),
        ({"batchnorm": "eval"}, "batchnorm"),
    ],
)
def test_settings_out_of_range_are_named(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        METHODS.make("fgsm-pgi", **settings)

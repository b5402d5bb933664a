"""Masked gradients are found, and neither honest robustness nor its honest absence is taken for them."""

import pytest
import torch
from masked_models import DATA, EPSILON, Constant, Plain, Quantised, Scaled, trained
from torch import nn

from co_probe.attacks import Square, named_attack
from co_probe.config.masking import NAMES, SENTENCES, Finding, evidence
from co_probe.indicators import masking
from co_probe.inference.evaluation import perturb

X, Y = DATA.test_x[:200], DATA.test_y[:200]


def check(model, **settings):
    return masking(model, X, Y, **{"epsilon": EPSILON} | settings)


def suspicious(result) -> set[str]:
    return {each.quantity for each in result.findings if each.suspicious}


def test_a_model_without_gradients():
    result = check(trained(Quantised))
    values = {each.quantity: each.value for each in result.findings}
    assert values["clean"] > 0.9 and values["fgsm"] == values["clean"] and values["pgd10"] > 0.9 * values["clean"]
    assert {"vanishing", "query", "large"} <= suspicious(result)
    assert any("zero on" in clause for clause in result.evidence) and any("Square" in each for each in result.evidence)


def test_a_model_with_huge_logits():
    result = check(trained(Scaled))
    assert result["pgd10"].value > result["margin"].value + 0.3
    assert {"vanishing", "margin", "query"} <= suspicious(result) and result.masked
    assert any("margin of the logits" in clause for clause in result.evidence)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_honest_models(norm):
    epsilon = EPSILON if norm == "linf" else 0.8
    robust, plain = (check(trained(Plain, robust=kind), epsilon=epsilon, norm=norm) for kind in (True, False))
    assert robust["pgd10"].low > 0.3 > plain["pgd10"].value + 0.1 or norm == "l2"
    for result in (robust, plain):
        assert not result.masked and result.evidence == ()
        assert result["large"].value < 0.1 and result["vanishing"].value == 0


def test_masking_in_l2():
    assert {"vanishing", "query", "large"} <= suspicious(check(trained(Quantised), epsilon=1.5, norm="l2"))


def test_a_model_at_chance_has_no_masking_verdict():
    result = check(Constant())
    assert not result.masked and result["pgd10"].value == result["large"].value > 0


def test_images_in_other_bounds():
    class Shifted(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model((x + 1) / 2)

    there, here = trained(Plain, robust=True), Shifted(trained(Plain, robust=True))
    other = masking(here, 2 * X - 1, Y, epsilon=2 * EPSILON, bounds=(-1.0, 1.0))
    assert other.large_epsilon == 1 and masking(there, X, Y, epsilon=EPSILON).large_epsilon == 0.5
    assert other["pgd10"].value == pytest.approx(check(there)["pgd10"].value, abs=0.02)
    assert not other.masked


def test_the_same_seed_gives_the_same_result():
    model = trained(Plain, robust=True).train()
    assert check(model) == check(model) and model.training


def test_every_finding_has_its_words():
    result = check(trained(Plain, robust=True))
    assert [each.quantity for each in result.findings] == list(NAMES)
    doubted = [Finding(each.quantity, 0.5, 0.4, 0.6, each.quantity in SENTENCES) for each in result.findings]
    assert len(evidence(doubted)) == len(SENTENCES) and all("50.0%" in clause for clause in evidence(doubted))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_stays_in_the_ball_and_is_stronger_than_noise(norm):
    model, epsilon = trained(Plain), EPSILON if norm == "linf" else 1.0
    attack = Square(epsilon=epsilon, norm=norm, queries=100)
    delta = attack(model, X, Y, torch.Generator().manual_seed(0))
    lengths = delta.abs().amax((1, 2, 3)) if norm == "linf" else delta.flatten(1).norm(dim=1)
    assert lengths.max() <= epsilon + 1e-5 and (X + delta).min() >= 0 and (X + delta).max() <= 1
    assert torch.equal(delta, attack(model, X, Y, torch.Generator().manual_seed(0)))
    after, before = (((model(images).argmax(1) == Y).float().mean()) for images in (X + delta, X))
    assert after < before - 0.3
    wrong = model(X).argmax(1) != Y
    assert not delta[wrong].any()


def test_square_steers_towards_targets_and_has_a_name():
    model = trained(Plain)
    targets = (Y + 1) % 10
    delta = perturb(model, Square(epsilon=0.3, queries=150), X, Y, torch.Generator().manual_seed(0), targets=targets)
    assert (model(X + delta).argmax(1) == targets).float().mean() > 0.3
    assert named_attack("square", 0.1) == Square(epsilon=0.1)
    with pytest.raises(ValueError, match="queries"):
        Square(epsilon=0.1, queries=0)


def test_square_is_as_strong_as_the_authors():
    package = pytest.importorskip("pyautoattack.square", reason="the package of AutoAttack is not installed")
    model = trained(Plain, robust=True)
    theirs = package.SquareAttack(model, norm="Linf", n_queries=300, eps=EPSILON, device="cpu", seed=0)
    with torch.no_grad():
        left = (model(theirs.perturb(X, Y)).argmax(1) == Y).float().mean()
    ours = Square(epsilon=EPSILON, queries=300).robust_mask(model, X, Y, torch.Generator().manual_seed(0))
    assert 0.4 < ours.float().mean() < left + 0.03  # ours draws the squares of each image apart from the others'

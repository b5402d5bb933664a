import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from co_probe.attacks import FGSM, PGD, Noise, input_gradient
from co_probe.attacks.named import named_attack
from co_probe.errors import UserError
from co_probe.inference.evaluation import evaluating, outcome, perturb
from co_probe.models.preact_resnet import PreActResNet

ROUNDING = 1e-6


class Linear(nn.Module):
    """Two classes, logits (0, w·x + b): gradients have a closed form."""

    def __init__(self, weight: torch.Tensor, bias: float):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x * self.weight).sum((1, 2, 3)) + self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


def linear(shape=(3, 5, 4), seed=0) -> tuple[Linear, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    model = Linear(torch.randn(shape, generator=rng), 0.1)
    return model, torch.rand((6, *shape), generator=rng), torch.tensor([0, 1, 0, 1, 1, 0])


def network(**sizes) -> PreActResNet:
    torch.manual_seed(0)
    return PreActResNet(1, 10, (0.0,), (1.0,), width=4, blocks=(1, 1), **sizes)


def images(n: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.rand((n, 1, 8, 8), generator=rng), torch.randint(10, (n,), generator=rng)


ATTACKS = [
    FGSM(epsilon=0.1),
    PGD(epsilon=0.1),
    PGD(epsilon=0.1, restarts=3),
    Noise(epsilon=0.1),
    Noise(epsilon=0.1, sign=True),
]


def test_input_gradient_has_the_closed_form():
    model, x, y = linear()
    # d/dx of log(1 + exp(s)) − y·s is (sigmoid(s) − y)·w
    residual = torch.sigmoid(model(x)[:, 1]) - y
    expected = residual[:, None, None, None] * model.weight
    assert torch.allclose(input_gradient(model, x, y), expected, atol=1e-6)


def test_fgsm_by_hand():
    model, x, y = linear()
    direction = torch.where(y == 1, -1.0, 1.0)[:, None, None, None] * model.weight.sign()
    expected = (x + 0.2 * direction).clamp(0, 1) - x
    assert torch.allclose(FGSM(epsilon=0.2)(model, x, y), expected, atol=ROUNDING)


def test_pgd_on_a_linear_model_ends_where_fgsm_does():
    # The gradient's sign is the same everywhere, so ten steps of ε/4 reach the same corner from any start.
    model, x, y = linear()
    assert torch.allclose(PGD(epsilon=0.1)(model, x, y), FGSM(epsilon=0.1)(model, x, y), atol=ROUNDING)


def test_one_pgd_step_by_hand():
    model, x, y = linear()
    rng = torch.Generator().manual_seed(3)
    start = torch.empty_like(x).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(3))
    start = (x + start).clamp(0, 1) - x
    direction = torch.where(y == 1, -1.0, 1.0)[:, None, None, None] * model.weight.sign()
    expected = (x + (start + 0.03 * direction).clamp(-0.1, 0.1)).clamp(0, 1) - x
    delta = PGD(epsilon=0.1, steps=1, step_size=0.03)(model, x, y, rng)
    assert torch.allclose(delta, expected, atol=ROUNDING)


@settings(max_examples=40, deadline=None)
@given(
    epsilon=st.floats(1e-4, 1.0),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 99),
    step=st.floats(1e-4, 3.0),
)
def test_perturbations_stay_in_the_ball_and_in_the_image(epsilon, shape, seed, step):
    model, x, y = linear(shape, seed)
    for attack in (
        FGSM(epsilon=epsilon),
        PGD(epsilon=epsilon, step_size=step, steps=3, restarts=2),
        Noise(epsilon=epsilon),
        Noise(epsilon=epsilon, sign=True),
    ):
        delta = attack(model, x, y, torch.Generator().manual_seed(seed))
        assert delta.abs().max() <= epsilon + ROUNDING
        assert (x + delta).min() >= -ROUNDING and (x + delta).max() <= 1 + ROUNDING


def test_pgd_is_not_weaker_than_fgsm_and_restarts_do_not_weaken_it():
    model, (x, y) = network().eval(), images(64)
    rng = torch.Generator().manual_seed(0)

    def loss(attack):
        return F.cross_entropy(model(x + attack(model, x, y, rng)), y).item()

    fgsm, pgd = loss(FGSM(epsilon=0.1)), loss(PGD(epsilon=0.1))
    assert pgd >= fgsm > outcome(model, x, y).loss.mean().item()
    one = PGD(epsilon=0.1, steps=2)(model, x, y, torch.Generator().manual_seed(5))
    best = PGD(epsilon=0.1, steps=2, restarts=4)(model, x, y, torch.Generator().manual_seed(5))
    # The first of the four starts is the one start of the other, so no image can come off with a smaller loss.
    assert (outcome(model, x, y, best).loss >= outcome(model, x, y, one).loss - ROUNDING).all()


@pytest.mark.parametrize("attack", ATTACKS, ids=[repr(attack).partition(", loss")[0] for attack in ATTACKS])
@pytest.mark.parametrize("training", [True, False])
def test_attacks_leave_the_model_as_it_was(attack, training):
    model, (x, y) = network(), images()
    model.train(training)
    model.bn.eval()  # a mode of its own, to be kept
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with evaluating(model):
        attack(model, x, y)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training == training and not model.bn.training
    assert not x.requires_grad


def test_the_same_seed_draws_the_same_perturbation():
    model, (x, y) = network().eval(), images()
    for attack in ATTACKS:
        first, second = (attack(model, x, y, torch.Generator().manual_seed(4)) for _ in range(2))
        assert torch.equal(first, second)


def test_noise_is_uniform_and_its_sign_is_even():
    x = torch.full((50, 1, 40, 40), 0.5)
    rng = torch.Generator().manual_seed(0)
    uniform = Noise(epsilon=0.3)(nn.Identity(), x, x, rng)
    assert abs(uniform.mean().item()) < 2e-3 and abs(uniform.std().item() - 0.3 / 3**0.5) < 2e-3
    sign = Noise(epsilon=0.3, sign=True)(nn.Identity(), x, x, rng)
    assert (
        torch.allclose(sign.abs(), torch.tensor(0.3), atol=ROUNDING)
        and abs((sign > 0).float().mean().item() - 0.5) < 0.01
    )


def test_outcome_in_batches_equals_outcome_at_once():
    model, (x, y) = network().eval(), images(300)
    delta = perturb(model, FGSM(epsilon=0.1), x, y)
    assert torch.allclose(delta, FGSM(epsilon=0.1)(model, x, y), atol=ROUNDING)
    logits = model((x + delta).clamp(0, 1))
    measured = outcome(model, x, y, delta)
    assert torch.allclose(measured.loss, F.cross_entropy(logits, y, reduction="none"), atol=1e-5)
    assert measured.accuracy == pytest.approx((logits.argmax(1) == y).float().mean().item())


@pytest.mark.parametrize("settings", [{"epsilon": 0.0}, {"epsilon": -1.0}, {"epsilon": float("nan")}])
def test_epsilon_must_be_positive(settings):
    with pytest.raises(ValueError, match="greater than 0"):
        FGSM(**settings)


def test_attacks_by_name():
    assert named_attack("pgd50x10", 0.1) == PGD(epsilon=0.1, steps=50, restarts=10)
    assert named_attack("fgsm", 0.1) == FGSM(epsilon=0.1)
    for name in ("pgd", "pgd0", "foo", "pgd10x0"):
        with pytest.raises(UserError, match="unknown attack"):
            named_attack(name, 0.1)


@pytest.mark.parametrize("name", ["fgsm", "pgd10", "cw", "gaussian"])
def test_images_of_other_bounds_are_kept_within_theirs(name: str):
    model, x, y = linear()
    model.bounds = (-0.1, 1.2)
    x = 1.3 * x - 0.1
    seen = x + named_attack(name, 0.2)(model, x, y, torch.Generator().manual_seed(0))
    assert seen.min() >= -0.1 - ROUNDING and seen.max() <= 1.2 + ROUNDING
    assert (seen < 0).any() and (seen > 1).any()


def test_without_bounds_a_step_is_taken_whole():
    model, x, y = linear()
    model.bounds = (-torch.inf, torch.inf)
    assert torch.equal(FGSM(epsilon=0.4)(model, x, y).abs(), torch.full_like(x, 0.4))

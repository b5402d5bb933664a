import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from co_probe.attacks import (
    ATTACKS,
    CW,
    FGSM,
    PGD,
    AutoAttack,
    Clean,
    Noise,
    attack_name,
    input_gradient,
    named_attack,
)
from co_probe.attacks.margin import margin
from co_probe.errors import UserError
from co_probe.inference.evaluation import outcome, perturb
from co_probe.inference.forward import Forward
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


EXAMPLES = [
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


def test_fgsm_equals_a_computation_by_hand():
    model, x, y = linear()
    direction = torch.where(y == 1, -1.0, 1.0)[:, None, None, None] * model.weight.sign()
    expected = (x + 0.2 * direction).clamp(0, 1) - x
    assert torch.allclose(FGSM(epsilon=0.2)(model, x, y), expected, atol=ROUNDING)


def test_pgd_on_a_linear_model_ends_where_fgsm_does():
    # The gradient's sign is the same everywhere, so ten steps of ε/4 reach the same corner from any start.
    model, x, y = linear()
    assert torch.allclose(PGD(epsilon=0.1)(model, x, y), FGSM(epsilon=0.1)(model, x, y), atol=ROUNDING)


def test_one_pgd_step_equals_a_computation_by_hand():
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


@pytest.mark.parametrize("attack", EXAMPLES, ids=attack_name)
@pytest.mark.parametrize("training", [True, False])
def test_attacks_leave_the_model_as_it_was(attack, training):
    model, (x, y) = network(), images()
    model.train(training)
    model.bn.eval()  # a mode of its own, to be kept
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack(Forward(model, batchnorm="eval"), x, y)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training == training and not model.bn.training
    assert not x.requires_grad


def test_the_same_seed_draws_the_same_perturbation():
    model, (x, y) = network().eval(), images()
    for attack in EXAMPLES:
        first, second = (attack(model, x, y, torch.Generator().manual_seed(4)) for _ in range(2))
        assert torch.equal(first, second)


def test_noise_is_uniform_and_its_sign_is_even():
    x = torch.full((50, 1, 40, 40), 0.5)
    rng = torch.Generator().manual_seed(0)
    y = torch.zeros(50).long()
    uniform = Noise(epsilon=0.3)(nn.Identity(), x, y, rng)
    assert abs(uniform.mean().item()) < 2e-3 and abs(uniform.std().item() - 0.3 / 3**0.5) < 2e-3
    sign = Noise(epsilon=0.3, sign=True)(nn.Identity(), x, y, rng)
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


def test_an_attack_object_is_accepted_where_a_name_is():
    attack = PGD(epsilon=0.2, steps=3)
    assert named_attack(attack, 0.1) is attack
    assert attack_name(attack) == "PGD(epsilon=0.2, steps=3)" and attack_name("pgd3") == "pgd3"
    assert attack_name(CW(epsilon=0.2)) == "CW(epsilon=0.2)"
    assert attack_name(PGD(epsilon=0.2, loss=margin)) == "PGD(epsilon=0.2, loss=margin)"


def test_every_registered_attack_has_a_name_that_makes_it():
    for entry in ATTACKS:
        name = entry.replace("N", "7").replace("R", "2")
        norm = "l2" if name == "shrink" else "linf"
        made = named_attack(name, 0.1, norm)
        assert isinstance(made, ATTACKS.load(entry)) and getattr(made, "steps", 7) in (7, CW(epsilon=1).steps)
    with pytest.raises(UserError, match="unknown attack 'pgdN'"):
        named_attack("pgdN", 0.1)


def test_names_pass_on_the_norm_and_the_bounds():
    assert named_attack("pgd5", 1.5, "l2", (-1.0, 2.0)) == PGD(epsilon=1.5, steps=5, norm="l2", bounds=(-1.0, 2.0))
    assert named_attack("clean", 0.1, "l2", (-1.0, 2.0)) == Clean(bounds=(-1.0, 2.0))
    assert named_attack("aa", 1.5, "l2") == AutoAttack(epsilon=1.5, norm="l2")


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, lambda model: nn.Sequential(model)])
@pytest.mark.parametrize("name", ["fgsm", "pgd10", "cw", "gaussian"])
def test_images_with_other_bounds_stay_within_them(name, wrap):
    model, x, y = linear()
    x = 1.3 * x - 0.1
    attack = named_attack(name, 0.2, bounds=(-0.1, 1.2))
    seen = x + attack(wrap(model), x, y, torch.Generator().manual_seed(0))
    assert seen.min() >= -0.1 - ROUNDING and seen.max() <= 1.2 + ROUNDING
    assert (seen < 0).any() and (seen > 1).any()


def test_without_bounds_a_step_is_not_clipped():
    model, x, y = linear()
    attack = FGSM(epsilon=0.4, bounds=(-torch.inf, torch.inf))
    assert torch.equal(attack(model, x, y).abs(), torch.full_like(x, 0.4))


def test_bounds_must_be_in_order():
    with pytest.raises(ValueError, match=r"low < high, not \(1.0, 0.0\)"):
        PGD(epsilon=0.1, bounds=(1.0, 0.0))


X, Y = torch.full((5, 3, 5, 4), 0.5), torch.zeros(5, dtype=torch.long)


@pytest.mark.parametrize(
    ("x", "y", "targets", "message"),
    [
        (X.flatten(1), Y, None, r"shape \(B, C, H, W\), not float32 of shape \(5, 60\)"),
        (X[0], Y, None, r"not float32 of shape \(3, 5, 4\)"),
        ((255 * X).byte(), Y, None, "float images .* not uint8"),
        (255 * X, Y, None, "within 0 and 1, and these reach from 127.5 to 127.5"),
        (X - 0.6, Y, None, "these reach from -0.1 to -0.1"),
        (X * torch.nan, Y, None, "these reach from nan to nan"),
        (X, Y[:4], None, r"y must hold a class number for each of 5 images, not be int64 of shape \(4,\)"),
        (X, F.one_hot(Y, 2), None, r"y must hold .* shape \(5, 2\)"),
        (X, Y, Y[:1], "targets must hold a class number for each of 5 images"),
    ],
)
def test_unsupported_inputs_of_attacks_are_refused_in_one_line(x, y, targets, message):
    model, _, _ = linear()
    for attack in (FGSM(epsilon=0.1), PGD(epsilon=0.1), Noise(epsilon=0.1)):
        for call in (attack, attack.robust_mask):
            with pytest.raises(UserError, match=message):
                call(model, x, y, targets=targets)


def test_rounding_beyond_the_bounds_is_accepted():
    model, _, _ = linear()
    FGSM(epsilon=0.1)(model, torch.full((5, 3, 5, 4), 1 + 5e-7), Y)


@pytest.mark.parametrize("attack", [FGSM(epsilon=0.2), PGD(epsilon=0.2, restarts=2), CW(epsilon=0.2, steps=5)])
def test_a_targeted_attack_leads_towards_its_targets_in_batches_as_at_once(attack):
    model, (x, y) = network().eval(), images(300)
    targets = (y + torch.randint(1, 10, y.shape, generator=torch.Generator().manual_seed(2))) % 10

    def share(delta, classes):
        return model(x + delta).softmax(1).gather(1, classes[:, None]).mean().item()

    delta = perturb(model, attack, x, y, torch.Generator().manual_seed(0), targets=targets)
    untargeted = perturb(model, attack, x, y, torch.Generator().manual_seed(0))
    assert share(delta, targets) > share(untargeted, targets) + 0.002
    assert share(delta, targets) > share(torch.zeros_like(x), targets) + 0.002
    # A permutation of the images permutes what does not depend on the draws; each keeps its own target.
    if isinstance(attack, FGSM):
        assert torch.allclose(delta, attack(model, x, y, targets=targets), atol=ROUNDING)
        order = torch.randperm(300, generator=torch.Generator().manual_seed(3))
        again = perturb(model, attack, x[order], y[order], targets=targets[order])
        assert torch.allclose(again, delta[order], atol=ROUNDING)


def test_images_that_a_targeted_attack_breaks_keep_their_targets_as_others_leave_the_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10)).double()
    x = images(64)[0].double()
    y = model(x).argmax(1)
    targets = (y + 1 + torch.arange(64) % 9) % 10
    attack = PGD(epsilon=0.15, steps=8)
    expected = torch.ones(64, dtype=torch.bool)
    start = torch.empty_like(x).uniform_(-0.15, 0.15, generator=torch.Generator().manual_seed(0))
    delta = start.clamp(-x, 1 - x)
    for _ in range(8):
        expected &= model(x + delta).argmax(1) == y
        step = 0.15 / 4 * -input_gradient(model, x + delta, targets).sign()
        delta = (delta + step).clamp(-0.15, 0.15).clamp(-x, 1 - x)
    expected &= model(x + delta).argmax(1) == y
    assert 0 < expected.sum() < 64
    mask = attack.robust_mask(model, x, y, torch.Generator().manual_seed(0), targets)
    assert torch.equal(mask, expected)
    assert not torch.equal(mask, attack.robust_mask(model, x, y, torch.Generator().manual_seed(0)))

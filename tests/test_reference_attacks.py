"""Our attacks against the packages that the field uses."""

import sys

import pytest
import torch
from torch import nn

import co_probe
from co_probe.attacks import CW, FGSM, PGD, AutoAttack
from co_probe.data.dataset import to_unit
from co_probe.errors import UserError

EPSILON = 0.05


@pytest.fixture(scope="module")
def subject() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A multi-layer perceptron that knows the digits, adversarially trained a little, and 60 test images."""
    from co_probe.data.digits import digits

    data = digits(size=8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, len(data.classes)))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        delta = FGSM(epsilon=EPSILON)(model, data.train_x, data.train_y)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.train_x + delta), data.train_y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval(), data.test_x[:60], data.test_y[:60]


def rng(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def directly(package, model, x, y, epsilon) -> torch.Tensor:
    """The images that AutoAttack leaves standing when it is called as its README says."""
    seed = int(torch.randint(2**31, (), generator=rng()))
    with torch.random.fork_rng([]):
        adversary = package.AutoAttack(model, norm="Linf", eps=epsilon, version="standard", seed=seed)
        _, classes = adversary.run_standard_evaluation(x, y, batch_size=len(x))
    return classes == y


def test_autoattack_is_that_of_the_package(subject, brief):
    model, x, y = subject
    expected = directly(brief, model, x, y, EPSILON)
    assert 0 < expected.sum() < (model(x).argmax(1) == y).sum()
    assert torch.equal(AutoAttack(epsilon=EPSILON).robust_mask(model, x, y, rng()), expected)


@pytest.mark.slow
def test_the_full_autoattack_is_that_of_the_package(subject):
    package = pytest.importorskip("pyautoattack", reason="the package pyautoattack is not installed")
    model, x, y = subject
    expected = directly(package, model, x[:8], y[:8], EPSILON)
    assert torch.equal(AutoAttack(epsilon=EPSILON).robust_mask(model, x[:8], y[:8], rng()), expected)


def test_stronger_attacks_leave_fewer_images(subject, brief):
    model, x, y = subject
    attacks = [AutoAttack, lambda epsilon: PGD(epsilon=epsilon, steps=20), FGSM]
    aa, pgd, fgsm = (attack(epsilon=EPSILON).robust_mask(model, x, y, rng()).sum().item() for attack in attacks)
    cw = CW(epsilon=EPSILON).robust_mask(model, x, y, rng()).sum().item()
    clean = (model(x).argmax(1) == y).sum().item()
    one_image = 1  # what the luck of a start may change
    assert 0 < aa <= pgd + one_image <= fgsm + 2 * one_image and fgsm < clean
    assert aa <= cw + one_image and cw < clean


def test_autoattack_changes_neither_model_nor_random_state(brief):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    model = model.to(memory_format=torch.channels_last)
    x = torch.rand((30, 3, 8, 8)).contiguous(memory_format=torch.channels_last)
    y = model(x).argmax(1)
    state, before = torch.get_rng_state(), sys.gettrace()

    def trace(*arguments):
        return None

    try:
        sys.settrace(trace)  # as a debugger does
        delta = AutoAttack(epsilon=0.015)(model, x, y, rng())
        traced = sys.gettrace()
    finally:
        sys.settrace(before)
    assert traced is trace
    assert delta.abs().max() <= 0.015 + 1e-6 and (x + delta).min() >= -1e-6 and (x + delta).max() <= 1 + 1e-6
    broken = model(x + delta).argmax(1) != y
    assert 0 < broken.sum() < 30  # so all of its attacks were called
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("classes", [4, 6])
def test_autoattack_aims_at_every_class_of_few(classes, brief):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)), torch.rand(8, 1, 4, 4)
    stands = AutoAttack(epsilon=0.1).robust_mask(model, x, model(x).argmax(1), rng())
    assert stands.shape == (8,)


@pytest.mark.parametrize("classes", [2, 3])
def test_autoattack_skips_and_names_attacks_that_need_more_classes(classes, brief):
    torch.manual_seed(0)
    layer, x = nn.Linear(16, classes), torch.rand(30, 1, 4, 4)
    with torch.no_grad():  # so that every class has images near to others
        layer.bias.copy_(-(x.flatten(1) @ layer.weight.T).median(0).values)
    model = nn.Sequential(nn.Flatten(), layer)
    y = model(x).argmax(1)
    with pytest.warns(UserWarning, match=f"on {classes} classes runs APGD on cross-entropy, FAB and Square"):
        mask = AutoAttack(epsilon=0.1).robust_mask(model, x, y, rng())
    assert 0 < mask.sum() < 30
    if classes == 2:  # where FGSM is the strongest attack on a linear model
        assert torch.equal(mask, FGSM(epsilon=0.1).robust_mask(model, x, y))


def test_autoattack_stays_in_an_l2_ball(brief):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.rand(30, 1, 8, 8)
    y = model(x).argmax(1)
    delta = AutoAttack(epsilon=0.2, norm="l2")(model, x, y, rng())
    lengths = delta.flatten(1).norm(dim=1)
    broken = model(x + delta).argmax(1) != y
    assert 0 < broken.sum() < 30 and lengths.max() <= 0.2 + 1e-5 and lengths[broken].min() > 0
    pgd = PGD(epsilon=0.2, norm="l2", steps=50).robust_mask(model, x, y, rng())
    assert (~broken).sum() <= pgd.sum() + 1


def test_limits_of_autoattack_are_reported(brief):
    with pytest.raises(UserError, match=r"within \[0, 1\]"):
        AutoAttack(epsilon=0.1, bounds=(-1.0, 1.0))
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 10)), torch.rand(4, 1, 4, 4)
    y = model(x).argmax(1)
    with pytest.raises(UserError, match="chooses its target classes itself"):
        AutoAttack(epsilon=0.1)(model, x, y, targets=y)
    with pytest.raises(UserError, match="at least 5 pixels high"):
        AutoAttack(epsilon=0.1, norm="l2")(model, x, y)


def test_autoattack_in_an_evaluation(runs, brief):
    frame = co_probe.evaluate(runs / "pgd", ["clean", "pgd20", "aa"], images=40)
    value, version = frame.set_index("attack")["value"], frame.set_index("attack")["version"]
    assert value["aa"] <= value["pgd20"] + 1 / 40 and value["pgd20"] <= value["clean"]
    assert version["aa"] == f"pyautoattack {brief.__version__}" and version["pgd20"] == ""
    run = co_probe.open_run(runs / "pgd")
    order = co_probe.probes.evaluation.image_order(500)[:40]
    x, y, model = to_unit(run.data.test_x[order]), run.data.test_y[order], run.load_model(run.best_epoch)
    from co_probe.numerics.rng import make_rng

    stands = AutoAttack(epsilon=run.epsilon).robust_mask(model, x, y, make_rng("cpu", run.config.seed, "evaluation", 0))
    assert value["aa"] == pytest.approx(stands.float().mean().item())


def test_pgd_is_that_of_foolbox_from_the_same_start(subject):
    foolbox = pytest.importorskip("foolbox", reason="the package foolbox is not installed")
    model, x, y = subject
    model, x = model.double(), x.double()
    start = torch.empty_like(x).uniform_(-EPSILON, EPSILON, generator=rng())

    class SameStart(foolbox.attacks.LinfPGD):
        def get_random_start(self, x0, epsilon):
            import eagerpy

            return x0 + eagerpy.astensor(start)

    attack = SameStart(abs_stepsize=0.02, steps=7, random_start=True)
    theirs = attack.run(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilon=EPSILON)
    ours = x + PGD(epsilon=EPSILON, step_size=0.02, steps=7)(model, x, y, rng())
    model.float()
    assert (ours - x).abs().max() > 0.9 * EPSILON
    assert torch.allclose(ours, theirs, atol=1e-12)

"""APART against a slow, literal version of Algorithm 1 of arXiv 2010.08034."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from torch import Tensor, nn

import co_probe
from co_probe.config.presets import configure
from co_probe.data.augment import pad_images, random_view
from co_probe.methods.apart import APART, APARTSimple, pack, unpack
from co_probe.methods.base import Batch, TrainingContext
from co_probe.methods.block_inputs import find_blocks, replaced_inputs
from co_probe.models.preact_resnet import PreActBlock, PreActResNet
from co_probe.training.loop import epochs

EPSILON = 0.1
ALPHA = [0.6, 0.5, 0.3, -0.2]  # ω, input, two blocks: far from the start, where every term counts


class LiteralBlock(nn.Module):
    """A PreActBlock that shows the input of its branch and adds a given perturbation to it."""

    def __init__(self, block: PreActBlock):
        super().__init__()
        self.block, self.extra = block, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        b = self.block
        inner = F.relu(b.bn1(x))
        skip = x if b.shortcut is None else b.shortcut(x[:, :, :: b.stride, :: b.stride])
        self.seen = inner * 1.0  # the branch's own copy: its gradient has no part of the shortcut's
        if self.seen.requires_grad:
            self.seen.retain_grad()
        return b.conv2(F.relu(b.bn2(b.conv1(self.seen + self.extra)))) + skip


class Literal:
    """Algorithm 1 with its equations spelt out, its own ω and α, and loops over pixels."""

    def __init__(self, model: nn.Module, method: APARTSimple):
        self.model = copy.deepcopy(model)
        stages = [self.model.layer1, self.model.layer2]
        for stage in stages:
            stage[0] = LiteralBlock(stage[0])
        self.blocks = [stage[0] for stage in stages]
        self.alpha = method.alpha.detach().double()
        self.velocity = torch.zeros_like(self.alpha)
        self.omega = method.omega.clone()
        self.rate, self.penalty = method.step_rate / 100, method.step_penalty  # 100 steps in the run

    def cut(self, view) -> Tensor:
        out = torch.zeros(len(view.index), 1, 6, 6, dtype=torch.float64)
        for b, i, j in torch.cartesian_prod(*map(torch.arange, (len(view.index), 6, 6))).tolist():
            out[b, 0, i, j] = self.omega[view.index[b], 0, view.rows[b, i], view.columns[b, j]]
        return out

    def objective(self, batch: Batch, omega: Tensor, alpha: Tensor) -> Tensor:
        """L(x + δ₁) with the blocks perturbed: a function of α, with all signs constant. Keeps the input, x + δ₁."""
        delta = (EPSILON * alpha[0] * omega).clamp(-EPSILON, EPSILON)
        delta = (delta + EPSILON * alpha[1] * self.sign).clamp(-EPSILON, EPSILON)
        for block, step, sign in zip(self.blocks, alpha[2:], self.inner, strict=False):
            block.extra = EPSILON * step * sign
        self.x = (batch.x + delta).clamp(0, 1)
        self.x.retain_grad()
        return F.cross_entropy(self.model(self.x), batch.y)

    def first_pass(self, batch: Batch, omega: Tensor) -> None:
        for block in self.blocks:
            block.extra = torch.zeros(())
        x = (batch.x + (EPSILON * self.alpha[0] * omega).clamp(-EPSILON, EPSILON)).clamp(0, 1).requires_grad_()
        F.cross_entropy(self.model(x), batch.y).backward()
        self.sign, self.inner = x.grad.sign(), [block.seen.grad.sign() for block in self.blocks]
        self.model.zero_grad()

    def step(self, batch: Batch) -> None:
        omega = self.cut(batch.view)
        self.first_pass(batch, omega)
        alpha = self.alpha.clone().requires_grad_()
        self.objective(batch, omega, alpha).backward()

        new = (omega + self.alpha[1] / self.alpha[0] * self.x.grad.sign()).clamp(-1, 1)
        for b, i, j in torch.cartesian_prod(*map(torch.arange, (len(batch.y), 6, 6))).tolist():
            self.omega[batch.view.index[b], 0, batch.view.rows[b, i], batch.view.columns[b, j]] = new[b, 0, i, j]
        self.velocity = 0.9 * self.velocity + alpha.grad - 2 * self.penalty * self.alpha
        self.alpha = self.alpha + self.rate * batch.lr_scale * self.velocity


def make(kind, start: Sequence[float] = ALPHA, **settings) -> tuple[nn.Module, APARTSimple, list[Batch]]:
    torch.manual_seed(0)
    model = PreActResNet(1, 10, (0.3,), (0.5,), width=3, blocks=(1, 1)).double().train()
    rng = torch.Generator().manual_seed(0)
    method = kind(**settings)
    method.setup(model, TrainingContext(9, (1, 6, 6), 1, 100, EPSILON, torch.device("cpu"), rng))
    method.omega = torch.rand(method.omega.shape, generator=rng, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        method.alpha.copy_(torch.tensor(start[: len(method.alpha)]))
    images = pad_images(torch.rand((9, 1, 6, 6), generator=rng, dtype=torch.float64), 1)
    batches = []
    for index in ([4, 0, 8, 3, 7], [0, 1, 2, 8]):
        view = random_view(torch.tensor(index), (6, 6), 1, True, rng)
        batches.append(Batch(view.take(images), torch.tensor(index) % 10, view, EPSILON, 0.5, rng))
    return model, method, batches


def plain(name: str) -> str:
    return name.replace(".block.", ".")


@pytest.mark.parametrize("kind", [APARTSimple, APART])
@pytest.mark.parametrize("start", [ALPHA, [-0.4, 0.5, 0.3, -0.2]])
def test_successive_updates_against_the_literal_algorithm(kind, start):
    model, method, batches = make(kind, start)
    literal = Literal(model, method)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (model, literal.model)]
    for scale in (0.0, 0.5, 1.0, 0.7, 0.2, 0.1):  # weights, step sizes and ω all move on from each update to the next
        batches = [replace(batches[1], lr_scale=scale), batches[0]]
        for optimizer in optimizers:
            optimizer.zero_grad()
        method.step(model, batches[0])
        method.update()
        literal.step(batches[0])
        gradients = {plain(name): p.grad for name, p in literal.model.named_parameters()}
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-6), name
        for optimizer in optimizers:
            optimizer.step()
        assert torch.allclose(method.alpha.double(), literal.alpha, atol=1e-6)
        assert torch.allclose(method.omega, literal.omega, atol=1e-6)
        # Both passes move BatchNorm's running statistics, each once.
        statistics = {plain(name): value for name, value in literal.model.state_dict().items()}
        for name, value in model.state_dict().items():
            assert torch.allclose(value, statistics[name], atol=1e-6), name
    assert (method.alpha - torch.tensor(start[: len(method.alpha)])).abs().min() > 1e-3
    assert 0.05 < (method.omega.abs() == 1).double().mean() < 0.95  # some of ω is clipped, some is not


def test_step_sizes_move_in_update_and_not_before_by_whatever_is_then_their_gradient():
    """Between `step` and `update` the gradient may be changed, by an all-reduce say."""
    (model, method, (batch, _)), (_, other, _) = make(APART), make(APART)
    before = method.alpha.detach().clone()
    method.step(model, batch)
    assert torch.equal(method.alpha.detach(), before) and method.alpha.grad.abs().min() > 0
    other.step(copy.deepcopy(model), batch)
    gradient = method.alpha.grad.clone()
    other.alpha.grad = 3 * gradient
    method.update()
    other.update()
    decay = 2 * method.step_penalty * before
    expected = before + method.learning_rate * batch.lr_scale * (gradient - decay)
    assert torch.allclose(method.alpha.detach(), expected, atol=1e-7)
    expected = before + method.learning_rate * batch.lr_scale * (3 * gradient - decay)
    assert torch.allclose(other.alpha.detach(), expected, atol=1e-7)


def test_step_size_gradients_against_finite_differences():
    model, method, (batch, _) = make(APART)
    literal = Literal(model, method)
    omega = literal.cut(batch.view)
    literal.first_pass(batch, omega)
    method.step(model, batch)
    h = 1e-6
    for i in range(len(literal.alpha)):
        nudge = torch.zeros_like(literal.alpha)
        nudge[i] = h
        points = (literal.alpha + sign * nudge for sign in (1, -1))
        up, down = (literal.objective(batch, omega, point.requires_grad_()) for point in points)
        slope = ((up - down) / (2 * h)).item()
        assert method.alpha.grad[i].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
        assert abs(slope) > 1e-4  # a check of zeros would check nothing


def test_batchnorm_update_restricts_statistics_to_the_weight_pass():
    model, method, (batch, _) = make(APART, batchnorm="update")
    method.step(model, batch)
    assert model.bn.num_batches_tracked == 1
    twice, usual, (batch, _) = make(APART)
    usual.step(twice, batch)
    assert twice.bn.num_batches_tracked == 2
    # The gradients are those of the usual way: batch statistics are used in both.
    for one, two in zip(model.parameters(), twice.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad)


def test_raw_constants_are_the_scale_free_ones_of_the_paper():
    epsilon, steps = 8 / 255, 60 * 391
    raw = APARTSimple(raw_penalty=200, raw_rate=5e-8)
    model, method, _ = make(APARTSimple)
    raw.setup(model, replace(context(), steps=steps, epsilon=epsilon))
    assert raw.optimizer.param_groups[0]["weight_decay"] / 2 == pytest.approx(0.2, rel=0.02)
    assert raw.learning_rate * steps == pytest.approx(1.19, rel=0.01)
    assert method.step_penalty == 0.2 and 1.2 <= method.step_rate <= 1.6
    # Starting values: 1e-4 of raw pixels for ω and the input, 0 for blocks.
    assert raw.alpha[0].item() * epsilon == pytest.approx(1e-4)


def context() -> TrainingContext:
    rng = torch.Generator().manual_seed(0)
    return TrainingContext(9, (1, 6, 6), 1, 100, EPSILON, torch.device("cpu"), rng)


def test_start():
    model, _, _ = make(APART)
    method = APART()
    method.setup(model, context())
    assert method.parameters()["alpha"] == pytest.approx(
        {"omega": 0.0031875, "input": 0.0031875, "layer1.0.conv1": 0.0, "layer2.0.conv1": 0.0}
    )
    assert method.omega.shape == (9, 1, 8, 8) and 5e-4 < method.omega.std() < 2e-3


def test_perturb_uses_only_the_learned_state_of_each_image():
    model, method, (batch, _) = make(APART)
    model.eval()
    omega = method.image_state(batch.view.index)
    x, y = torch.rand_like(batch.x), batch.y
    before = {name: value.clone() for name, value in model.state_dict().items()}
    known, unseen = (method.perturb(model, x, y, epsilon=EPSILON, state=state) for state in (omega, None))
    assert not torch.allclose(known, unseen)
    assert torch.equal(unseen, method.perturb(model, x, y, epsilon=EPSILON, state=torch.zeros_like(omega)))
    for delta in (known, unseen):
        assert delta.abs().max() <= EPSILON + 1e-9 and (x + delta).min() >= 0 and (x + delta).max() <= 1
        assert not delta.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_shortcut_does_not_see_the_perturbation_of_the_branch():
    model, _, (batch, _) = make(APART)
    blocks = find_blocks(model)
    assert list(blocks) == ["layer1.0.conv1", "layer2.0.conv1"]
    block = model.layer2[0].eval()
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    with replaced_inputs({"conv1": block.conv1}, lambda _, activation: activation * 0):
        without_branch = block(x)
    bias_only = block.conv2(F.relu(block.bn2(torch.zeros(2, 6, 3, 3, dtype=torch.float64))))
    assert torch.allclose(without_branch - bias_only, block.shortcut(x[:, :, ::2, ::2]))


@pytest.mark.parametrize(("dtype", "step"), [("float16", 2**-11), ("int8", 1 / 254)])
def test_omega_is_rounded_in_its_store_only(dtype, step):
    model, exact, (batch, _) = make(APART)
    copied, rounded, _ = make(APART, omega_dtype=dtype)
    assert rounded.image_state(torch.arange(3)).dtype == torch.float64  # `make` gives all the same ω, in float64
    rounded.start_stage(context())
    rounded.omega.copy_(pack(exact.omega, rounded.omega.dtype))
    exact.omega = unpack(rounded.omega).double()
    exact.step(model, batch)
    rounded.step(copied, batch)
    assert rounded.omega.dtype == getattr(torch, dtype)
    for one, two in zip(model.parameters(), copied.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-6)
    assert (unpack(rounded.omega) - exact.omega).abs().max() <= step * 1.01
    assert rounded.image_state(torch.arange(3)).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_run_is_resumed_with_the_stored_omega(dtype, tmp_path):
    config = configure("digits", "apart", TINY, {"method": {"omega_dtype": dtype}})
    list(epochs(config, tmp_path / "whole", device="cpu"))
    training = epochs(config, tmp_path / "run", device="cpu")
    next(training)
    training.close()
    with h5py.File(next((tmp_path / "run").glob("resume-*.h5"))) as file:
        assert file["method/omega"].dtype == dtype
    list(epochs(config, tmp_path / "run", resume=True, device="cpu"))
    whole, run = (co_probe.open_run(tmp_path / name) for name in ("whole", "run"))
    assert all(np.array_equal(value, run.weights(3)[key]) for key, value in whole.weights(3).items())
    assert np.array_equal(whole.image_state(3), run.image_state(3)) and whole.image_state(3).dtype == "float32"


def test_omega_in_float32_unless_it_is_asked_for_less_or_there_is_a_gpu(monkeypatch):
    method = APARTSimple()
    method.setup(make(APART)[0], context())
    assert method.omega.dtype == torch.float32
    on_gpu = replace(context(), device=torch.device("cuda"))
    monkeypatch.setattr(TrainingContext, "new_store", lambda self, dtype: torch.zeros(0, dtype=dtype))
    method.start_stage(on_gpu)
    assert method.omega.dtype == torch.float16
    with pytest.raises(ValueError, match="omega_dtype must be one of auto, float32, float16, int8, not 'int4'"):
        APART(omega_dtype="int4")


def test_a_model_without_residual_blocks_is_refused():
    plain_model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    with pytest.raises(ValueError, match="no residual block"):
        APART().setup(plain_model, context())
    APARTSimple().setup(plain_model, context())


def test_learned_numbers_survive_storage_in_any_order():
    _, method, _ = make(APART)
    stored = method.parameters()
    shuffled = {"alpha": dict(sorted(stored["alpha"].items()))}
    other = APART()
    other.load_parameters(shuffled)
    assert other.parameters() == stored
    assert torch.equal(other.alpha, method.alpha.detach())

"""APART: adversarial training with a learned perturbation generator.

Sources: Algorithm 1 of arXiv 2010.08034, and the code that its authors published (github.com/zichaoli/APART, `train.py`
and `models/preresnet.py`). That code and this file agree on the following.

- δ₀ = clip(α_ω·ω, ±ε) and δ₁ = clip(δ₀ + α₁·sign, ±ε); both passes see clip(x + δ, 0, 1).
- Signs are constants. The gradients of α₁ and α_ω pass through these clips: clipped pixels contribute nothing.
- α maximises and θ minimises the loss of the second pass; ω is updated by α₁/α_ω from before that update.
- ω is stored per padded image and cropped and flipped with it; only pixels of the crop are updated.

Where they differ, or where the paper is silent (step sizes in pixel units, as there; the paper's column follows the
transcription of Algorithm 1 that this file is based on):

| choice | paper | published code | here |
|---|---|---|---|
| gradient that updates ω | second pass, by the order of the lines | second pass, at clip(x + δ₁, 0, 1) | as the code |
| update ratio of ω | α₁/α_ω | α₁/(α_ω + 1e-7) | α₁/α_ω, but abs(α_ω) at least 1e-6·ε |
| place of a block's step | not given | input of conv1, after BatchNorm and ReLU; not clipped | as the code |
| start of α₁, α_ω; ω; α_i | not given | 1e-4; 0.001·N(0, 1); 0 | as the code, 1e-4 at ε = 8/255 |
| optimizer of α | gradient ascent | SGD; momentum 0.9, 0.8 at the peak of μ, 0.9 | SGD with momentum 0.9 |
| penalty of α | λ = 200 | weight decay 400, and in effect 1200 | weight decay 2λ |
| schedule of μ | not given | triangular, as that of θ | that of θ |
| BatchNorm in the first pass | — | train mode, moves statistics | as the code (`batchnorm`) |
| ε in training | 8/255 | 0.031 | that of the run |

The momentum of the code varies because PyTorch's CyclicLR does so by default; that of θ varies as well. Its weight
decay is threefold because the optimizer of θ receives the step sizes too, with gradients of 0: with the PyTorch of its
time it decays them by its own 2e-4, which at rates of 0.2 for θ and 5e-8 for α amounts to 800 more.

Measured on digits (`analyses/apart_choices.py`: 30 epochs, seeds 0 and 1, 500 test images): accuracy under PGD-10 is
64.6 ± 1.1% with these choices, 61.5 ± 0.4% if the first pass's gradient updates ω, 57.5 ± 1.8% if blocks are perturbed
before BatchNorm and ReLU, 66.2 ± 0.3% with the threefold decay, and 64.2 ± 0.6% with the varying momentum.

With the ratio, momentum and decay of this file, the published training step gives the same weights, α and ω, to 1e-8,
over eight updates of a PreActResNet18 in float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from co_probe.attacks import Rng, project
from co_probe.attacks.base import Model
from co_probe.data.augment import centre
from co_probe.methods.base import (
    Batch,
    Method,
    StepResult,
    TrainingContext,
    check_not_negative,
    check_positive,
    forward_backward,
)
from co_probe.methods.block_inputs import BlockInputs, find_blocks

NO_BLOCKS = BlockInputs({})
OMEGA_DTYPES = ("auto", "float32", "float16", "int8")
LEVELS = 127  # greatest value of ω in int8
PART = 1000  # number of images whose ω is drawn at once


@dataclass(eq=False, kw_only=True)
class APARTSimple(Method):
    """APART without block perturbations: a learned initialisation ω per image, and learned step sizes.

    With step sizes α in units of ε (in the paper, in pixels), a training step computes
        δ₀ = clip(ε·α_ω·ω, ±ε);   s = sign ∇ₓL(x + δ₀);   δ₁ = clip(δ₀ + ε·α₁·s, ±ε)
        θ minimises L(x + δ₁), and α maximises L(x + δ₁) − penalty·‖α‖² with s constant
        ω ← clip(ω + (α₁/α_ω)·sign ∇ₓL(x + δ₁), ±1)
    and α is trained by SGD with momentum 0.9, at a rate that follows the learning-rate schedule of θ. The gradient in
    the last line is that of the second pass, according to the order of lines in Algorithm 1. If images change their
    size during a run, ω is initialised again and the step sizes are retained.

    Cost of rounding ω: on digits of 8×8 pixels (`apart`, width 8, 15 epochs, 3 seeds, 500 test images) accuracy under
    PGD-10 was 55.6% in float32, 57.0% in float16 and 56.2% in int8, means with a standard deviation of 1 to 2 points
    over seeds, so the differences may be due to chance. Not measured on larger data.

    Args:
        step_penalty: λ·ε²; 0.197 for the paper's CIFAR-10 constants (λ = 200, μ = 5e-8, ε = 8/255, 60 epochs).
        step_rate: μ/ε² times the number of steps in the run; 1.19 for these constants.
        raw_penalty: λ in the paper's units, instead of `step_penalty`.
        raw_rate: μ in the paper's units, instead of `step_rate`.
        initial_step: α₁ and α_ω at the start (1e-4 of raw pixels at ε = 8/255).
        initial_omega: Standard deviation of ω at the start.
        omega_dtype: Type in which ω is stored between steps, one number per pixel of every padded image: `float32`,
            `float16`, `int8` (multiples of 1/127; 240 MB for CIFAR-10), or `auto` for float16 on a GPU, else float32. A
            resumed run keeps the type of its start.
        learn_initialisation: If false (Table 6), ω stays 0, α_ω is unused, and nothing is stored per image.

    Raises:
        ValueError: If a setting is out of range or, in `setup`, ω does not fit into memory.

    Reference:
        arXiv 2010.08034, section 4 and Algorithm 1; the starting values, the momentum and the weight decay of 2λ are
        those of the authors' released code.
    """

    step_penalty: float = 0.2
    step_rate: float = 1.4
    raw_penalty: float | None = None
    raw_rate: float | None = None
    initial_step: float = 1e-4 / (8 / 255)
    initial_omega: float = 1e-3
    omega_dtype: str = "auto"
    learn_initialisation: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(step_penalty=self.step_penalty, step_rate=self.step_rate, initial_omega=self.initial_omega)
        check_not_negative(raw_penalty=self.raw_penalty, raw_rate=self.raw_rate)
        check_positive(initial_step=self.initial_step)
        if self.omega_dtype not in OMEGA_DTYPES:
            raise ValueError(f"omega_dtype must be one of {', '.join(OMEGA_DTYPES)}, not {self.omega_dtype!r}")
        self.blocks = NO_BLOCKS
        self.names = ["omega", "input"]
        self.alpha = torch.zeros(2)

    def find_blocks(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """Return the inner layers that are perturbed too: none here."""
        return {}

    @override
    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        self.blocks = BlockInputs(self.find_blocks(model))
        self.names = ["omega", "input", *self.blocks.modules]
        self.alpha = torch.zeros(len(self.names), device=context.device)
        self.alpha[:2] = self.initial_step
        self.alpha.requires_grad_()
        square = context.epsilon**2
        penalty = self.step_penalty if self.raw_penalty is None else self.raw_penalty * square
        self.learning_rate = self.step_rate / context.steps if self.raw_rate is None else self.raw_rate / square
        self.optimizer = torch.optim.SGD(
            [self.alpha], lr=self.learning_rate, momentum=0.9, weight_decay=2 * penalty, maximize=True
        )
        self.start_stage(context)

    @override
    def start_stage(self, context: TrainingContext) -> None:
        self.padding = context.padding
        if not self.learn_initialisation:
            return
        auto = "float16" if context.device.type == "cuda" else "float32"
        dtype = getattr(torch, auto if self.omega_dtype == "auto" else self.omega_dtype)
        self.omega = torch.empty(0)  # free the old one before allocating
        self.omega = context.new_store(dtype)
        # Drawn in float32: at once if it is stored so, else in parts, to save memory.
        for part in self.omega.split(len(self.omega) if dtype == torch.float32 else PART):
            drawn = part if dtype == torch.float32 else torch.empty(part.shape, device=part.device)
            part.copy_(pack(drawn.normal_(0, self.initial_omega, generator=context.rng), dtype))

    def start(self, omega: Tensor, epsilon: float) -> Tensor:
        """Return δ₀, the learned initialisation, differentiable in α_ω."""
        return (epsilon * self.alpha[0] * omega).clamp(-epsilon, epsilon)

    def advance(self, delta: Tensor, sign: Tensor, epsilon: float) -> Tensor:
        """Return δ₁, one learned step from δ₀, differentiable in α₁ and `delta`."""
        return (delta + epsilon * self.alpha[1] * sign).clamp(-epsilon, epsilon)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        with torch.no_grad():
            delta = self.start(torch.zeros_like(x) if state is None else state, epsilon)
            sign, _ = self.signs(model, self.clip(x + delta), y, NO_BLOCKS)
            return project(self.advance(delta, sign, epsilon), x, epsilon, self.bounds)

    def signs(self, model: Model, x: Tensor, y: Tensor, blocks: BlockInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute signs of the loss gradient at `x` and at the input of each layer, without weight gradients."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits, seen = blocks.watch(model, x)
            loss = F.cross_entropy(logits, y, reduction="sum")
        gradient, *inner = torch.autograd.grad(loss, [x, *seen.values()])
        return gradient.sign(), {name: g.sign() for name, g in zip(seen, inner, strict=True)}

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        epsilon = batch.epsilon
        omega = unpack(batch.view.take(self.omega)) if self.learn_initialisation else torch.zeros_like(batch.x)
        self.alpha.grad = None
        delta = self.start(omega, epsilon)
        sign, signs = self.signs(self.perturbing(model), self.clip(batch.x + delta), batch.y, self.blocks)

        # Computed in float32 regardless of the layer, so that the gradient of α is in float32.
        alphas = dict(zip(self.names, self.alpha, strict=True))
        steps = {
            name: (epsilon * alphas[name] * s.to(torch.promote_types(s.dtype, torch.float32))).to(s.dtype)
            for name, s in signs.items()
        }
        x = self.clip(batch.x + self.advance(delta, sign, epsilon))
        x.retain_grad()
        with self.blocks.adding(steps):
            result = forward_backward(model, x, batch)

        with torch.no_grad():
            assert x.grad is not None
            ratio = self.alpha[1] / away_from_zero(self.alpha[0])  # avoids 0·∞ for a zero sign
            if self.learn_initialisation:
                batch.view.put(self.omega, pack((omega + ratio * x.grad.sign()).clamp(-1, 1), self.omega.dtype))
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * batch.lr_scale  # for `update`
        return result

    @override
    def update(self) -> None:
        self.optimizer.step()

    @override
    def to_average(self) -> Sequence[Tensor]:
        return () if self.alpha.grad is None else (self.alpha.grad,)

    @override
    def parameters(self) -> dict[str, dict[str, float]]:
        alpha = dict(zip(self.names, self.alpha.tolist(), strict=True))
        if not self.learn_initialisation:
            del alpha["omega"]
        return {"alpha": alpha}

    @override
    def load_parameters(self, parameters: dict[str, dict[str, float]]) -> None:
        alpha = parameters["alpha"]
        # α_ω and α₁ come first; a file may have any order.
        self.names = ["omega", "input", *(name for name in alpha if name not in ("omega", "input"))]
        self.alpha = torch.tensor([alpha.get(name, 0.0) for name in self.names])

    @override
    def image_state(self, index: Tensor) -> Tensor | None:
        if not self.learn_initialisation:
            return None
        return centre(unpack(self.omega[index]), self.padding)

    @override
    def state_dict(self) -> dict[str, Any]:
        momentum = self.optimizer.state[self.alpha].get("momentum_buffer", torch.zeros_like(self.alpha))
        state = {"alpha": self.alpha.detach(), "momentum": momentum}
        return {**state, "omega": self.omega} if self.learn_initialisation else state

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
            if self.learn_initialisation:
                self.omega = state["omega"].to(self.omega.device)  # in its original type, on any device
        self.optimizer.state[self.alpha]["momentum_buffer"] = state["momentum"].to(self.alpha)


def away_from_zero(value: Tensor, least: float = 1e-6) -> Tensor:
    """Clamp the magnitude of `value` to at least `least`, keeping its sign (0 becomes `least`)."""
    return torch.where(value < 0, value.clamp(max=-least), value.clamp(min=least))


def pack(omega: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert ω in [-1, 1] to its stored form in `dtype`: multiples of 1/127 in int8."""
    return (omega * LEVELS).round().to(dtype) if dtype == torch.int8 else omega.to(dtype)


def unpack(kept: Tensor) -> Tensor:
    """Invert `pack`, to float32 (or float64)."""
    return kept / LEVELS if kept.dtype == torch.int8 else kept.to(torch.promote_types(kept.dtype, torch.float32))


@dataclass(eq=False, kw_only=True)
class APART(APARTSimple):
    """APART: additionally perturbs the branch input of every residual block i by ε·α_i·sign.

    The perturbation of a block is added to the input of its first convolution, which in a pre-activation network
    follows the first BatchNorm and ReLU, and not to the shortcut. α_i starts at 0. Arguments are those of
    `APARTSimple`.

    Raises:
        ValueError: In `setup`, if the model has no residual block.

    Reference:
        arXiv 2010.08034, section 4 and Algorithm 1.
    """

    @override
    def find_blocks(self, model: nn.Module) -> Mapping[str, nn.Module]:
        blocks = find_blocks(model)
        if not blocks:
            raise ValueError(
                "the model has no residual block whose branch begins with a convolution (conv1, say), so there is "
                "nothing inside it to perturb: use apart-simple"
            )
        return blocks

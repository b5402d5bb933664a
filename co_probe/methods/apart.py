"""APART: adversarial training whose perturbation generator learns too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.attacks import Rng, project
from co_probe.data.augment import centre
from co_probe.methods.base import Batch, Method, StepResult, Task, descend
from co_probe.methods.taps import Taps, find_taps

NO_TAPS = Taps({})
OMEGA_DTYPES = ("auto", "float32", "float16", "int8")
LEVELS = 127  # of ω in int8, on either side of 0
PART = 1000  # images


@dataclass(eq=False, kw_only=True)
class APARTSimple(Method):
    """APART without block perturbations: a learned initialisation ω for each image, and learned step sizes.

    With all step sizes α in units of ε (the paper's are raw pixels), a training step does
        δ₀ = clip(ε·α_ω·ω, ±ε);   s = sign ∇ₓL(x + δ₀);   δ₁ = clip(δ₀ + ε·α₁·s, ±ε)
        θ descends L(x + δ₁), and α ascends L(x + δ₁) − penalty·‖α‖² with s constant
        ω ← clip(ω + (α₁/α_ω)·sign ∇ₓL(x + δ₁), ±1)
    and α is trained by SGD with momentum 0.9, at a rate that follows the schedule of θ. The last line's gradient is the
    second pass's, as it follows from the order of Algorithm 1: ω moves on from where δ₁ has got to.

    `step_penalty`: λ·ε²; `step_rate`: μ/ε² times the number of steps in the run. The defaults are the paper's CIFAR-10
    constants (λ = 200, μ = 5e-8, ε = 8/255, 60 epochs), made free of scale. `raw_penalty` (λ) and `raw_rate` (μ) give
    the paper's own units instead. `initial_step`: α₁ and α_ω at the start (1e-4 of raw pixels at ε = 8/255);
    `initial_omega`: standard deviation of ω at the start. Without `learn_initialisation` (Table 6) ω stays 0, α_ω has
    no part, and nothing is kept for the images. Where images grow during a run, ω starts afresh with each size, and the
    step sizes go on.

    `omega_dtype`: what ω is kept in between steps, a number a pixel of every padded image: `float32`, `float16` or
    `int8` (multiples of 1/127; 240 MB for CIFAR-10). `auto` is float16 on a GPU, else float32. A run goes on in what it
    began with. What rounding costs: on digits of 8×8 pixels (`apart`, width 8, 15 epochs, 3 seeds, 500 test images)
    accuracy under PGD-10 was 55.6% in float32, 57.0% in float16 and 56.2% in int8, means with a standard deviation of
    1 to 2 points over seeds: nothing that this could tell from chance. Not measured on larger data.
    Raises ValueError for a setting out of range, or if ω does not fit into memory.
    Source: arXiv 2010.08034, section 4 and Algorithm 1, and for the
    starting values, the momentum and the weight decay of 2λ the authors' released code.
    """

    step_penalty: float = 0.2
    step_rate: float = 1.4
    raw_penalty: float | None = None
    raw_rate: float | None = None
    initial_step: float = 1e-4 / (8 / 255)
    initial_omega: float = 1e-3
    omega_dtype: str = "auto"
    learn_initialisation: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.raw_penalty is not None:
            self.step_penalty = self.raw_penalty * self.epsilon**2
        if self.step_penalty < 0 or self.step_rate < 0 or (self.raw_rate or 0) < 0:
            raise ValueError("penalties and rates must not be negative")
        if not (self.initial_step > 0 and self.initial_omega >= 0):
            raise ValueError("initial_step must be greater than 0 and initial_omega must not be negative")
        if self.omega_dtype not in OMEGA_DTYPES:
            raise ValueError(f"omega_dtype must be one of {', '.join(OMEGA_DTYPES)}, not {self.omega_dtype!r}")
        self.taps = NO_TAPS
        self.names = ["omega", "input"]
        self.alpha = torch.zeros(2)

    def find_taps(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """The layers inside the model that are perturbed too: none here."""
        return {}

    def setup(self, model: nn.Module, task: Task) -> None:
        self.taps = Taps(self.find_taps(model))
        self.names = ["omega", "input", *self.taps.modules]
        self.alpha = torch.zeros(len(self.names), device=task.device)
        self.alpha[:2] = self.initial_step
        self.alpha.requires_grad_()
        self.rate = self.step_rate / task.steps if self.raw_rate is None else self.raw_rate / self.epsilon**2
        self.optimizer = torch.optim.SGD(
            [self.alpha], lr=self.rate, momentum=0.9, weight_decay=2 * self.step_penalty, maximize=True
        )
        self.start_phase(task)

    def start_phase(self, task: Task) -> None:
        self.padding = task.padding
        if not self.learn_initialisation:
            return
        auto = "float16" if task.device.type == "cuda" else "float32"
        dtype = getattr(torch, auto if self.omega_dtype == "auto" else self.omega_dtype)
        self.omega = torch.empty(0)  # the old one must not take memory beside the new one
        self.omega = task.new_store(dtype)
        # Drawn in float32: at once where it is kept so, else in parts, so as not to take that memory after all.
        for part in self.omega.split(len(self.omega) if dtype == torch.float32 else PART):
            drawn = part if dtype == torch.float32 else torch.empty(part.shape, device=part.device)
            part.copy_(pack(drawn.normal_(0, self.initial_omega, generator=task.rng), dtype))

    def start(self, omega: Tensor) -> Tensor:
        """δ₀, the learned initialisation; differentiable in α_ω."""
        return (self.epsilon * self.alpha[0] * omega).clamp(-self.epsilon, self.epsilon)

    def advance(self, delta: Tensor, sign: Tensor) -> Tensor:
        """δ₁, one learned step from δ₀; differentiable in α₁ and through `delta`."""
        return (delta + self.epsilon * self.alpha[1] * sign).clamp(-self.epsilon, self.epsilon)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None, state: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            delta = self.start(torch.zeros_like(x) if state is None else state)
            sign, _ = self.signs(model, (x + delta).clamp(*self.bounds), y, NO_TAPS)
            return project(self.advance(delta, sign), x, self.epsilon, self.bounds)

    def signs(self, model: nn.Module, x: Tensor, y: Tensor, taps: Taps) -> tuple[Tensor, dict[str, Tensor]]:
        """Signs of the loss gradient at `x`, and at each tap's input: the first pass, without weight gradients."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits, seen = taps.watch(model, x)
            loss = F.cross_entropy(logits, y, reduction="sum")
        gradient, *inner = torch.autograd.grad(loss, [x, *seen.values()])
        return gradient.sign(), {name: g.sign() for name, g in zip(seen, inner, strict=True)}

    def step(self, model: nn.Module, batch: Batch) -> StepResult:
        omega = unpack(batch.view.take(self.omega)) if self.learn_initialisation else torch.zeros_like(batch.x)
        self.alpha.grad = None
        delta = self.start(omega)
        with self.perturbation_pass(model):
            sign, signs = self.signs(model, (batch.x + delta).clamp(*self.bounds), batch.y, self.taps)

        # Computed in float32 whatever the layer computes in, so that α has its gradient in float32.
        alphas = dict(zip(self.names, self.alpha, strict=True))
        steps = {
            name: (self.epsilon * alphas[name] * s.to(torch.promote_types(s.dtype, torch.float32))).to(s.dtype)
            for name, s in signs.items()
        }
        x = (batch.x + self.advance(delta, sign)).clamp(*self.bounds)
        x.retain_grad()
        with self.taps.adding(steps):
            result = descend(model, x, batch.y)

        with torch.no_grad():
            assert x.grad is not None
            ratio = self.alpha[1] / self.alpha[0].clamp(min=1e-6)  # α_ω = 0 must not make 0·∞ of a zero sign
            if self.learn_initialisation:
                batch.view.put(self.omega, pack((omega + ratio * x.grad.sign()).clamp(-1, 1), self.omega.dtype))
        self.optimizer.param_groups[0]["lr"] = self.rate * batch.rate
        self.optimizer.step()
        return result

    def parameters(self) -> dict[str, dict[str, float]]:
        alpha = dict(zip(self.names, self.alpha.tolist(), strict=True))
        if not self.learn_initialisation:
            del alpha["omega"]
        return {"alpha": alpha}

    def load_parameters(self, parameters: dict[str, dict[str, float]]) -> None:
        alpha = parameters["alpha"]
        # The first two lead; a file may give them in any order.
        self.names = ["omega", "input", *(name for name in alpha if name not in ("omega", "input"))]
        self.alpha = torch.tensor([alpha.get(name, 0.0) for name in self.names])

    def image_state(self, index: Tensor) -> Tensor | None:
        if not self.learn_initialisation:
            return None
        return centre(unpack(self.omega[index]), self.padding)

    def state_dict(self) -> dict[str, Any]:
        momentum = self.optimizer.state[self.alpha].get("momentum_buffer", torch.zeros_like(self.alpha))
        state = {"alpha": self.alpha.detach(), "momentum": momentum}
        return {**state, "omega": self.omega} if self.learn_initialisation else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
            if self.learn_initialisation:
                self.omega = state["omega"].to(self.omega.device)  # kept as it was, wherever the run goes on
        self.optimizer.state[self.alpha]["momentum_buffer"] = state["momentum"].to(self.alpha)


def pack(omega: Tensor, dtype: torch.dtype) -> Tensor:
    """ω in [-1, 1] as it is kept in `dtype`: as multiples of 1/127 in int8."""
    return (omega * LEVELS).round().to(dtype) if dtype == torch.int8 else omega.to(dtype)


def unpack(kept: Tensor) -> Tensor:
    """The inverse of `pack`, float32 (or float64)."""
    return kept / LEVELS if kept.dtype == torch.int8 else kept.to(torch.promote_types(kept.dtype, torch.float32))


@dataclass(eq=False, kw_only=True)
class APART(APARTSimple):
    """APART in full: besides the input, the branch input of every residual block i takes a step ε·α_i·sign of its own.

    The block perturbation enters at the block's first convolution (in a pre-activation network that is after the
    block's first BatchNorm and ReLU); the shortcut never sees it; α_i starts at 0.
    Its settings are those of `apart-simple`.
    Raises ValueError if the model has no residual block. Source: arXiv 2010.08034, section 4 and Algorithm 1.
    """

    def find_taps(self, model: nn.Module) -> Mapping[str, nn.Module]:
        taps = find_taps(model)
        if not taps:
            raise ValueError(
                "the model has no residual block whose branch begins with a convolution (conv1, say), so there is "
                "nothing inside it to perturb: use apart-simple"
            )
        return taps

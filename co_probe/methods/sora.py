"""SORA: FGSM from a random start, with a step size that decreases with the linearity of the loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from co_probe.attacks import Rng, input_gradient, project, random_start
from co_probe.attacks.base import Model
from co_probe.indicators.linearity import linearity_ratio
from co_probe.methods.base import Batch, Method, StepResult, TrainingContext, check_positive, forward_backward


@dataclass(eq=False, kw_only=True)
class SORA(Method):
    """SORA: a random fraction of a step whose size depends on the linearity of the loss in earlier steps.

    η ~ U(−ε, ε) with x + η clipped to the bounds, g = ∇ₓL(x + η) and u ~ U(0, 1) for each component:
        δ = η + a · u · sign g,   a = a_max · min(1, a₀/(1 − v))
    with x + δ clipped to the bounds and δ *not* to the ε-ball: it may be as large as ε + a. After each step, with g′
    the input gradient of the update, v ← (1 − θ)·v + θ·r, where r is the mean over images of sign(g)·g′/‖g‖₁, clipped
    to [−1, 1] (`co_probe.indicators.linearity_ratio`). So a is a_max while the loss is linear (v ≥ 1 − a₀) and
    decreases with linearity. Cost: 5 passes, as FGSM, since the update's backward pass gives g′.

    Where sources differ: the released code multiplies a₀/(1 − v) by a_max, as here; a summary of the paper has a₀ as a
    length. The released code does not run (its training loop passes two arguments that the attack does not accept), so
    only its attack and its ratio were compared. Images with g = 0 are excluded from r; there they count as 0. Its
    variant for L2 is omitted.

    Args:
        relative_step: a_max, in units of ε.
        slack: a₀.
        initial_linearity: v at the start.
        rate: θ.

    Raises:
        ValueError: If a setting is out of range.

    Reference:
        "SORA: Free second-order attacks in fast adversarial training" (ICML 2026), https://arxiv.org/abs/2606.00738;
        github.com/SecondOrderAT/SORA, its sign variant.
    """

    relative_step: float = 2.0
    slack: float = 0.02
    initial_linearity: float = 0.99
    rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(relative_step=self.relative_step, slack=self.slack, rate=self.rate)
        if not self.rate <= 1:
            raise ValueError(f"rate must be at most 1, not {self.rate:g}")
        if not -1 <= self.initial_linearity <= 1:
            raise ValueError(f"initial_linearity must be between -1 and 1, not {self.initial_linearity:g}")
        self.linearity = torch.tensor(self.initial_linearity)
        self.ratio = torch.tensor(torch.nan)  # r of the last step, for `update`

    @override
    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        self.linearity = self.linearity.to(context.device)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        return self._perturb(model, x, y, epsilon, rng)[0]

    def _perturb(self, model: Model, x: Tensor, y: Tensor, epsilon: float, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return δ and g."""
        start = random_start(x, epsilon, self.bounds, rng)
        gradient = input_gradient(model, x + start, y).clone()  # compiled code may reuse its memory
        length = self.relative_step * epsilon * (self.slack / (1 - self.linearity.to(x))).clamp(max=1)
        share = torch.empty_like(x).uniform_(generator=rng)
        return project(start + length * share * gradient.sign(), x, torch.inf, self.bounds), gradient

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        delta, gradient = self._perturb(self.perturbing(model), batch.x, batch.y, batch.epsilon, batch.rng)
        x = self.clip(batch.x + delta).requires_grad_()
        result = forward_backward(model, x, batch)
        assert x.grad is not None
        self.ratio = linearity_ratio(gradient, len(x) * x.grad)  # g is of the sum over images, g′ of the mean
        return result

    @override
    def to_average(self) -> Sequence[Tensor]:
        return (self.ratio,)

    @override
    def update(self) -> None:
        moved = torch.lerp(self.linearity, self.ratio.to(self.linearity), self.rate)
        self.linearity = torch.where(self.ratio.isnan(), self.linearity, moved)  # unchanged if no image has a gradient

    @override
    def parameters(self) -> dict[str, dict[str, float]]:
        return {"sora": {"linearity": self.linearity.item()}}

    @override
    def load_parameters(self, parameters: dict[str, dict[str, float]]) -> None:
        self.linearity = torch.tensor(parameters["sora"]["linearity"])

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"linearity": self.linearity}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.linearity = state["linearity"].to(self.linearity)

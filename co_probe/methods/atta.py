"""ATTA: adversarial training that continues each image's perturbation of the last epoch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, input_gradient, project
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


@dataclass(eq=False, kw_only=True)
class ATTA(Method):
    """ATTA-K: K steps δ ← Π(δ + α · sign ∇ₓL(x + δ)) starting at the image's δ of the last epoch.

    δ is stored for each padded training image, cropped and flipped with it, and written back to the same pixels. It is
    drawn as noise at the start, at the start of epochs R, 2R, 3R, ... and when images change their size. Π projects
    onto the ε-ball and x + δ onto the bounds; unseen images start at δ = 0.

    Args:
        steps: K.
        step_size: α in pixel units; if None ε/2 for K = 1, ε/3 for K ≤ 3, ε/4 for more: the authors' settings,
            rounded.
        reset: R, in epochs.
        initial_noise: Standard deviation of the initial noise, in pixel units.

    Raises:
        ValueError: If a setting is out of range or, in `setup`, δ does not fit into memory.

    Reference:
        Zheng et al. (2020), "Efficient adversarial training with transferable adversarial examples", section 4; the
        initial noise, the epochs of resets, and perturbing in eval mode are as in their code.
    """

    batchnorm: str = "eval"
    steps: int = 1
    step_size: float | None = None
    reset: int = 10
    initial_noise: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(steps=self.steps, reset=self.reset, step_size=self.step_size)
        check_not_negative(initial_noise=self.initial_noise)

    @override
    def start_stage(self, context: TrainingContext) -> None:
        self.padding = context.padding
        self.delta = torch.empty(0)  # free the old one before allocating
        self.delta = context.new_store()
        self._reset(context.rng)

    @override
    def start_epoch(self, epoch: int, rng: torch.Generator) -> None:
        if epoch % self.reset == 0:
            self._reset(rng)

    def _reset(self, rng: torch.Generator) -> None:
        self.delta.normal_(0, self.initial_noise, generator=rng)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        divisor = 2 if self.steps == 1 else 3 if self.steps <= 3 else 4
        step_size = epsilon / divisor if self.step_size is None else self.step_size
        delta = project(torch.zeros_like(x) if state is None else state, x, epsilon, self.bounds)
        for _ in range(self.steps):
            sign = input_gradient(model, x + delta, y).sign()
            delta = project(delta + step_size * sign, x, epsilon, self.bounds)
        return delta

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        state = batch.view.take(self.delta)
        inner = self.perturbing(model)
        delta = self.perturb(inner, batch.x, batch.y, epsilon=batch.epsilon, rng=batch.rng, state=state)
        batch.view.put(self.delta, delta)
        return forward_backward(model, self.clip(batch.x + delta), batch)

    @override
    def image_state(self, index: Tensor) -> Tensor:
        return centre(self.delta[index], self.padding)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.delta.copy_(state["delta"])

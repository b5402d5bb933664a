"""Free adversarial training: weights and perturbation share a backward pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from co_probe import attacks
from co_probe.methods.base import Batch, Method, StepResult, Task, descend


@dataclass(eq=False, kw_only=True)
class Free(Method):
    """Free-m: every batch is trained on m times, and each backward pass serves the weights and δ alike.

    On each of the m replays θ descends ∇_θ L(x + δ), and from the same pass δ ← clip(δ + ε · sign ∇ₓL(x + δ), ±ε).
    The model sees x + δ clipped to [0, 1]. δ starts at 0 and goes on from batch to batch: image i of a batch
    finds the δ that image i of the batch before left (a smaller last batch uses the first ones).
    `replays`: m, at least 1. The budget `epochs` counts passes: a run keeps ⌈epochs / m⌉ epochs of m replays each, and
    the learning-rate schedule runs over all replays.
    On images outside of training (`perturb`) there is no δ to go on from: it is taken as 0, which makes one FGSM step.
    Raises ValueError if m is less than 1. Source: Shafahi et al. (2019), "Adversarial training for free!", Algorithm 1.
    Their code differentiates through the clipping to [0, 1], so that δ stands still where it is clipped; here, as in
    Algorithm 1, the gradient is that at the clipped image.
    """

    replays: int = 8

    @property
    def attack(self) -> attacks.FGSM:
        return attacks.FGSM(epsilon=self.epsilon, bounds=self.bounds)

    def setup(self, model: nn.Module, task: Task) -> None:
        self.start_phase(task)

    def start_phase(self, task: Task) -> None:
        self.delta = torch.zeros(0, *task.shape, device=task.device)

    def step(self, model: nn.Module, batch: Batch) -> StepResult:
        size = len(batch.x)
        if missing := max(0, size - len(self.delta)):  # the first batch shows how large they are
            self.delta = torch.cat([self.delta, self.delta.new_zeros(missing, *self.delta.shape[1:])])
        delta = self.delta[:size]
        x = (batch.x + delta).clamp(*self.bounds).requires_grad_()
        result = descend(model, x, batch.y)
        assert x.grad is not None
        delta.add_(self.epsilon * x.grad.sign()).clamp_(-self.epsilon, self.epsilon)
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.delta = state["delta"].to(self.delta)

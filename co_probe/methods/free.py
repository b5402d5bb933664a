"""Free adversarial training, in which weights and perturbation share a backward pass."""

from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import override

from co_probe import attacks
from co_probe.attacks.base import Model
from co_probe.methods.base import Batch, Method, StepResult, TrainingContext, forward_backward


@dataclass(eq=False, kw_only=True)
class Free(Method):
    """Free-m: m updates per batch, with one backward pass for weights and δ.

    In each of the m replays θ is updated by ∇_θ L(x + δ), and from the same pass δ ← clip(δ + ε · sign ∇ₓL(x + δ), ±ε).
    The model sees x + δ clipped to the bounds. δ starts at 0 and is retained between batches: image i of a batch uses
    the δ of image i of the previous batch (a smaller last batch uses the first ones). For images outside the training
    set (`perturb`) δ starts at 0, which gives one FGSM step.

    The authors' code differentiates through the clipping, so that δ does not change where it is clipped; here, as in
    Algorithm 1, the gradient is that at the clipped image.

    Args:
        replays: m. The budget `epochs` counts passes: a run has ⌈epochs / m⌉ epochs of m replays each, and the
            learning-rate schedule runs over all replays.

    Reference:
        Shafahi et al. (2019), "Adversarial training for free!", Algorithm 1.
    """

    replays: int = 8

    @override
    def attack_at(self, epsilon: float) -> attacks.FGSM:
        return attacks.FGSM(epsilon=epsilon, bounds=self.bounds)

    @override
    def start_stage(self, context: TrainingContext) -> None:
        self.delta = torch.zeros(0, *context.shape, device=context.device)

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        size = len(batch.x)
        if missing := max(0, size - len(self.delta)):  # the first batch determines the shape
            self.delta = torch.cat([self.delta, self.delta.new_zeros(missing, *self.delta.shape[1:])])
        delta = self.delta[:size]
        x = self.clip(batch.x + delta).requires_grad_()
        result = forward_backward(model, x, batch)
        assert x.grad is not None
        delta.add_(batch.epsilon * x.grad.sign()).clamp_(-batch.epsilon, batch.epsilon)
        return result

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.delta = state["delta"].to(self.delta)

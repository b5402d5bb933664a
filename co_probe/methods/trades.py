"""TRADES: trade-off between clean accuracy and stability under perturbations."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, project
from co_probe.attacks.base import Model
from co_probe.methods.base import Batch, Method, StepResult, check_not_negative, check_positive


@dataclass(eq=False, kw_only=True)
class TRADES(Method):
    """Minimises L(x) + β · KL(p(x) ‖ p(x + δ)), averaged over the batch, with δ that maximises the KL divergence.

    δ starts from noise (the gradient of the divergence is 0 at δ = 0) and takes steps δ ← Π(δ + α · sign ∇_δ KL(p(x) ‖
    p(x + δ))), with p(x) constant and without labels. The gradient of the weights passes through both p(x) and p(x +
    δ). Π projects onto the ε-ball and x + δ onto the bounds. Training accuracy is that at x + δ.

    Args:
        beta: β (1/λ in the paper).
        steps: Number of steps.
        step_size: α in pixel units; ε/4 if None (0.007 at 0.031 in the paper).
        initial_noise: Standard deviation of the starting noise, in pixel units.

    Reference:
        Zhang et al. (2019), "Theoretically principled trade-off between robustness and accuracy", Algorithm 1;
        perturbing in eval mode is as in their code.
    """

    batchnorm: str = "eval"
    beta: float = 6.0
    steps: int = 10
    step_size: float | None = None
    initial_noise: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(steps=self.steps, step_size=self.step_size)
        check_not_negative(beta=self.beta, initial_noise=self.initial_noise)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        step = epsilon / 4 if self.step_size is None else self.step_size
        with torch.no_grad():
            clean = model(x)
        delta = project(torch.empty_like(x).normal_(0, self.initial_noise, generator=rng), x, epsilon, self.bounds)
        for _ in range(self.steps):
            adversarial = (x + delta).requires_grad_()
            with torch.enable_grad():
                gradient = torch.autograd.grad(divergence(clean, model(adversarial)), adversarial)[0]
            delta = project(delta + step * gradient.sign(), x, epsilon, self.bounds)
        return delta

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        inner = self.perturbing(model)
        delta = self.perturb(inner, batch.x, batch.y, epsilon=batch.epsilon, rng=batch.rng)
        clean, adversarial = model(batch.x), model(self.clip(batch.x + delta))
        loss = batch.cross_entropy(clean) + self.beta * divergence(clean, adversarial) / len(batch.y)
        loss.backward()
        return StepResult(loss.detach(), (adversarial.detach().argmax(1) == batch.y).sum())


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Compute KL(p ‖ q) in nats, summed over the batch, from the logits (B, classes) of p and q."""
    return F.kl_div(adversarial.log_softmax(1), clean.log_softmax(1), reduction="sum", log_target=True)

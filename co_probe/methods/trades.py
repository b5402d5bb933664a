"""TRADES: clean accuracy and stability against perturbation, traded off."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.attacks import Rng, project
from co_probe.methods.base import Batch, Method, StepResult


@dataclass(eq=False, kw_only=True)
class TRADES(Method):
    """θ descends L(x) + β · KL(p(x) ‖ p(x + δ)), means over the batch, with δ made to maximise that KL divergence.

    δ starts at `initial_noise` · N(0, 1) (pixel units; at 0 the divergence has no gradient) and takes `steps` steps
    δ ← Π(δ + α · sign ∇_δ KL(p(x) ‖ p(x + δ))), with p(x) held fast. It never looks at the labels. In the descent the
    gradient goes through both p(x) and p(x + δ). Π projects to the ε-ball and to x + δ in [0, 1].
    `beta`: β (1/λ in the paper); `step_size`: α in pixel units, ε/4 if it is not given (0.007 at 0.031 in the paper).
    Training accuracy is that at x + δ. Raises ValueError for a setting out of range.
    Source: Zhang et al. (2019), "Theoretically principled trade-off between robustness and accuracy",
    Algorithm 1; perturbing in eval mode is as in their code.
    """

    batchnorm: str = "eval"
    beta: float = 6.0
    steps: int = 10
    step_size: float | None = None
    initial_noise: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        if self.steps < 1 or (self.step_size is not None and not self.step_size > 0):
            raise ValueError("steps and step_size must be greater than 0")
        if self.beta < 0 or self.initial_noise < 0:
            raise ValueError("beta and initial_noise must not be negative")

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None, state: Tensor | None = None) -> Tensor:
        step = self.epsilon / 4 if self.step_size is None else self.step_size
        with torch.no_grad():
            clean = model(x)
        delta = project(torch.empty_like(x).normal_(0, self.initial_noise, generator=rng), x, self.epsilon, self.bounds)
        for _ in range(self.steps):
            adversarial = (x + delta).requires_grad_()
            with torch.enable_grad():
                gradient = torch.autograd.grad(divergence(clean, model(adversarial)), adversarial)[0]
            delta = project(delta + step * gradient.sign(), x, self.epsilon, self.bounds)
        return delta

    def step(self, model: nn.Module, batch: Batch) -> StepResult:
        with self.perturbation_pass(model):
            delta = self.perturb(model, batch.x, batch.y, batch.rng)
        clean, adversarial = model(batch.x), model((batch.x + delta).clamp(*self.bounds))
        loss = F.cross_entropy(clean, batch.y) + self.beta * divergence(clean, adversarial) / len(batch.y)
        loss.backward()
        return StepResult(loss.detach(), (adversarial.detach().argmax(1) == batch.y).sum())


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """KL(p ‖ q) in nats, summed over the batch; p and q have the logits `clean` and `adversarial`, (B, classes)."""
    return F.kl_div(adversarial.log_softmax(1), clean.log_softmax(1), reduction="sum", log_target=True)

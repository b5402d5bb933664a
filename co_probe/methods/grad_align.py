"""GradAlign: FGSM adversarial training with a penalty on misaligned input gradients within the ε-ball."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from co_probe.attacks import project
from co_probe.attacks.base import Model
from co_probe.inference.forward import Forward
from co_probe.methods.base import Batch, StepResult, check_not_negative, forward_backward
from co_probe.methods.fgsm import FGSM
from co_probe.methods.fgsm_rs import FGSMRS
from co_probe.methods.penalised import Penalised


@dataclass(eq=False, kw_only=True)
class GradAlign(Penalised):
    """FGSM or F+FGSM with the penalty λ · (1 − cos(∇ₓL(x), ∇ₓL(x + η))), η ~ U(−ε, ε), averaged over the batch.

    θ minimises L(x + δ) plus the penalty, which is differentiated through both input gradients (double backward). x + η
    is not clipped; images whose gradient is 0 at either point are excluded from the mean. With the base `fgsm` the
    attack and the penalty share ∇ₓL(x).

    Args:
        base: Method that makes δ, `fgsm` or `fgsm-rs`.
        penalty: λ, 0.2 at ε = 8/255 on CIFAR-10 (larger at a larger ε).
        detach: Treat ∇ₓL(x) as a constant, as the authors' code does (not stated in their formula).

    Reference:
        Andriushchenko and Flammarion (2020), "Understanding and improving fast adversarial training", section 5;
        `fgsm` is their choice there.
    """

    BASES: ClassVar = {"fgsm": FGSM, "fgsm-rs": FGSMRS}

    base: str = "fgsm"
    penalty: float = 0.2
    detach: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(penalty=self.penalty)

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        x, y, epsilon = batch.x, batch.y, batch.epsilon
        noise = torch.empty_like(x).uniform_(-epsilon, epsilon, generator=batch.rng)
        forward = replace(Forward.of(model), batchnorm=self.batchnorm)
        here, there = live_gradient(forward, x, y), live_gradient(forward, x + noise, y)
        regulariser = self.penalty * (1 - mean_cosine(here.detach() if self.detach else here, there))
        regulariser.backward()  # before another pass updates the running statistics that it may depend on
        if self.base == "fgsm":
            delta = project(epsilon * here.detach().sign(), x, epsilon, self.bounds)
        else:
            delta = self.perturb(self.perturbing(model), x, y, epsilon=epsilon, rng=batch.rng)
        result = forward_backward(model, self.clip(x + delta), batch)
        return StepResult(result.loss + regulariser.detach(), result.correct)


def live_gradient(forward: Forward, x: Tensor, y: Tensor) -> Tensor:
    """Compute ∇ₓ of the summed cross-entropy, of the shape of `x`, differentiable in the weights."""
    return forward.as_one(_live_gradient, x.detach().requires_grad_(), y)


def _live_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(model(x), y, reduction="sum")
    return torch.autograd.grad(loss, x, create_graph=True)[0]


def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Compute the mean over images of the cosine of their gradients; 1 if all have a gradient of 0."""
    a, b = a.flatten(1), b.flatten(1)
    there_is = ((a.detach() ** 2).sum(1) > 0) & ((b.detach() ** 2).sum(1) > 0)
    # Zero gradients are replaced, since the norm is not differentiable at 0. Removing them would synchronise the
    # device to get their number.
    a, b = (torch.where(there_is[:, None], gradient, 1) for gradient in (a, b))
    cosines = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    count = there_is.sum()
    return torch.where(count > 0, torch.where(there_is, cosines, 0).sum() / count.clamp(min=1), 1)

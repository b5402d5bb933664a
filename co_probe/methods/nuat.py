"""NuAT: nuclear norm of the change of a batch's logits, as a penalty in the loss and in the attack."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, project
from co_probe.attacks.base import Model
from co_probe.methods.base import Batch, Method, StepResult, TrainingContext, check_not_negative, check_positive


@dataclass(eq=False, kw_only=True)
class NuAT(Method):
    """NuAT: minimises L(x) + λ · ‖Z(x + δ) − Z(x)‖_*/B, with Z the logits of the batch, (B, classes).

    δ is one step from a Bernoulli start δ₀ = ±ε/2:
        δ = clip(δ₀ + ε · sign ∇ₓ[L(x + δ₀) + λ · ‖Z(x + δ₀) − Z(x)‖_*/B], ±ε),
    where x + δ₀, x + δ₀ + step and x + δ are clipped to the bounds and Z(x) is a constant; the second term is omitted
    in every other step, starting with the first of an epoch. λ rises linearly from 0 in the first epoch to `penalty`,
    and is constant in the last `constant` epochs. Training accuracy is that at x + δ. Cost: 9 passes; singular values
    synchronise a GPU.

    As in the authors' code, δ is made in eval mode (`batchnorm`), except for Z(x), which needs a separate pass in train
    mode. The order of the two passes of the update is reversed there. Its variants NuAT2 (two steps) and NuAT-H (which
    switches between them by a rule that is not in the code) are omitted.

    Args:
        penalty: λ at the end; 4.5 in the code for a ResNet-18 on CIFAR-10, 4 for a WideResNet.
        noise: Size of δ₀, in units of ε.
        relative_step: Length of the step, in units of ε.
        constant: Number of last epochs with constant λ; 10 of 100 there.

    Raises:
        ValueError: If a setting is out of range.

    Reference:
        Sriramanan et al. (NeurIPS 2021), "Towards efficient and effective adversarial training";
        github.com/val-iisc/NuAT, `NuAT_cifar10.py`, with which gradients agree.
    """

    batchnorm: str = "eval"
    penalty: float = 4.5
    noise: float = 0.5
    relative_step: float = 1.0
    constant: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(penalty=self.penalty, noise=self.noise, constant=self.constant)
        check_positive(relative_step=self.relative_step)
        self.rising = 1  # epochs
        self.current = 0.0  # λ
        self._steps = 0  # of this epoch

    @override
    def start_stage(self, context: TrainingContext) -> None:
        self.rising = max(1, context.epochs - self.constant)

    @override
    def start_epoch(self, epoch: int, rng: torch.Generator) -> None:
        self.current = self.penalty * min(1.0, (epoch - 1) / self.rising)
        self._steps = 0

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        with torch.no_grad():
            clean = model(x)
        return self._perturb(model, x, y, epsilon, rng, clean, self.current)

    def _perturb(
        self, model: Model, x: Tensor, y: Tensor, epsilon: float, rng: Rng, clean: Tensor, penalty: float
    ) -> Tensor:
        heads = torch.rand(x.shape, generator=rng, dtype=x.dtype, device=x.device) < 0.5
        start = self.clip(x + self.noise * epsilon * torch.where(heads, 1.0, -1.0)).requires_grad_()
        with torch.enable_grad():
            logits = model(start)
            loss = F.cross_entropy(logits, y, reduction="sum")  # B times the formula, with the same signs
            if penalty:
                loss = loss + penalty * nuclear_norm(logits - clean)
            gradient = torch.autograd.grad(loss, start)[0]
        stepped = self.clip(start.detach() + self.relative_step * epsilon * gradient.sign())
        return project(stepped - x, x, epsilon, self.bounds)

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        x, y = batch.x, batch.y
        with torch.no_grad():
            constant = model(x)
        penalty = self.current if self._steps % 2 else 0.0
        self._steps += 1
        delta = self._perturb(self.perturbing(model), x, y, batch.epsilon, batch.rng, constant, penalty)
        clean, adversarial = model(x), model(self.clip(x + delta))
        loss = batch.cross_entropy(clean) + self.current * nuclear_norm(adversarial - clean) / len(y)
        loss.backward()
        return StepResult(loss.detach(), (adversarial.detach().argmax(1) == y).sum())

    @override
    def parameters(self) -> dict[str, dict[str, float]]:
        return {"nuat": {"penalty": self.current}}

    @override
    def load_parameters(self, parameters: dict[str, dict[str, float]]) -> None:
        self.current = parameters["nuat"]["penalty"]


def nuclear_norm(matrix: Tensor) -> Tensor:
    """Compute the sum of the singular values of a matrix (B, classes), a scalar."""
    return torch.linalg.matrix_norm(matrix, "nuc")

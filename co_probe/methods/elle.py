"""ELLE: FGSM with a penalty on the local linearity error; ELLE-A applies it when the error jumps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from co_probe.attacks.base import Model
from co_probe.inference.forward import Forward
from co_probe.methods.base import Batch, StepResult, TrainingContext, check_not_negative
from co_probe.methods.fgsm import FGSM
from co_probe.methods.n_fgsm import NFGSM
from co_probe.methods.penalised import Penalised


@dataclass(eq=False, kw_only=True)
class ELLE(Penalised):
    """ELLE: minimises L(x + δ) + λ · E, with δ of FGSM and E the mean local linearity error of the batch.

    x_a, x_b = x + U(−ε, ε), not clipped; a ~ U(0, 1) for each image and x_c = (1 − a)·x_a + a·x_b:
        E = mean over images of (L(x_c) − (1 − a)·L(x_a) − a·L(x_b))²
    The three points of all images form one batch of 3B images. Cost: 5 + 3·3 = 14 passes, without second derivatives.
    BatchNorm has the same mode in the pass of the penalty as in the passes that make δ (`batchnorm`).

    Where sources differ: the released code takes an optimizer step twice per batch with the same gradient, which is
    omitted here, and does not clip x + δ to the bounds. Its 30-epoch scripts for CIFAR-10 set λ = 1000 up to ε = 8/255,
    5000 up to 20/255 and 10000 above; the public FastAT benchmark sets 1.

    Args:
        base: Method that makes δ, `fgsm` or `n-fgsm`.
        penalty: λ.

    Raises:
        ValueError: If a setting is out of range.

    Reference:
        Abad Rocamora et al. (ICLR 2024), "Efficient local linearity regularization to overcome catastrophic
        overfitting", https://arxiv.org/abs/2401.11618; github.com/LIONS-EPFL/ELLE, with which gradients agree.
    """

    BASES: ClassVar = {"fgsm": FGSM, "n-fgsm": NFGSM}

    base: str = "fgsm"
    penalty: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(penalty=self.penalty)

    def weight(self, error: Tensor) -> float | Tensor:
        """Return λ of a step with error E = `error`."""
        return self.penalty

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        # First, so that the passes of the base come last in the step, where indicators expect them.
        error = linearity_error(replace(Forward.of(model), batchnorm=self.batchnorm), batch)
        regulariser = self.weight(error.detach()) * error
        regulariser.backward()
        Forward.of(model).copy_gradients()
        result = super().step(model, batch)
        return StepResult(result.loss + regulariser.detach(), result.correct)


def linearity_error(model: Model, batch: Batch) -> Tensor:
    """Compute E of a batch, a scalar in nats² that is differentiable in the weights; 3 forward passes in one."""
    x, y = batch.x, batch.y
    ends = x + torch.empty(2, *x.shape, dtype=x.dtype, device=x.device).uniform_(
        -batch.epsilon, batch.epsilon, generator=batch.rng
    )
    share = torch.rand(len(x), generator=batch.rng, dtype=x.dtype, device=x.device)
    middle = torch.lerp(ends[0], ends[1], share[:, None, None, None])
    losses = F.cross_entropy(model(torch.cat([ends.flatten(0, 1), middle])), y.repeat(3), reduction="none")
    first, second, between = losses.view(3, -1)
    return (between - (1 - share) * first - share * second).square().mean()


@dataclass(eq=False, kw_only=True)
class ELLEA(ELLE):
    """ELLE-A: ELLE with a λ that is raised when the error E of a batch exceeds its history, and then decays.

    λ starts at 0. After a step with error E, the λ of the next step becomes `penalty` if there were at least three
    steps before and E exceeds the mean of their errors by `sensitivity` standard deviations; else it becomes `decay`·λ.
    Then E is added to the history, which is never shortened, so that the rule becomes less sensitive with time. During
    a warm-up of ε, E rises and the rule fires without a collapse. Cost: 14 passes even with λ = 0, since E is always
    needed.

    Args:
        base: Method that makes δ, `fgsm` or `n-fgsm`.
        penalty: λ when the rule fires; 4000 at every ε in the authors' scripts.
        sensitivity: Number of standard deviations at which the rule fires.
        decay: Factor of λ per step.

    Raises:
        ValueError: If a setting is out of range.

    Reference:
        As `ELLE`. The FastAT benchmark adds E to the history before it compares.
    """

    penalty: float = 4000.0
    sensitivity: float = 2.0
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(sensitivity=self.sensitivity, decay=self.decay)
        self.current = torch.tensor(0.0)  # λ
        # Number, mean and sum of squared deviations of all errors so far.
        self.history = torch.zeros(3)
        self.error = torch.tensor(torch.nan)  # of the last step, for `update`

    @override
    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        self.current, self.history = self.current.to(context.device), self.history.to(context.device)

    @override
    def weight(self, error: Tensor) -> Tensor:
        self.error = error
        return self.current

    @override
    def to_average(self) -> Sequence[Tensor]:
        return (self.error,)

    @override
    def update(self) -> None:
        error = self.error.to(self.history)
        count, mean, squares = self.history
        limit = mean + self.sensitivity * (squares / count.clamp(min=1)).sqrt()
        alarm = (count > 2) & (error > limit)
        self.current = torch.where(alarm, self.penalty, self.decay * self.current)
        moved = mean + (error - mean) / (count + 1)
        self.history = torch.stack([count + 1, moved, squares + (error - mean) * (error - moved)])

    @override
    def parameters(self) -> dict[str, dict[str, float]]:
        return {"elle": {"penalty": self.current.item()}}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"penalty": self.current, "history": self.history}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.current = state["penalty"].to(self.current)
        self.history = state["history"].to(self.history)

"""AAER: F+FGSM or N-FGSM with a penalty on abnormal adversarial examples, whose loss the attack lowers."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from co_probe.attacks.base import Model
from co_probe.methods.base import Batch, StepResult, check_not_negative
from co_probe.methods.fgsm_rs import FGSMRS
from co_probe.methods.n_fgsm import NFGSM
from co_probe.methods.penalised import Penalised

WEIGHTS = {"fgsm-rs": (2.5, 1.5), "n-fgsm": (1.5, 0.15)}  # λ₂ and λ₃ at ε = 8/255 on CIFAR-10


@dataclass(eq=False, kw_only=True)
class AAER(Penalised):
    """AAER: minimises L(x + δ) + R, with δ of F+FGSM or N-FGSM and a penalty R on abnormal images.

    Let η be the starting noise of the base; z₀, l₀ and z₁, l₁ the logits and losses of an image at x + η and x + δ. It
    is abnormal if l₀ > l₁, as n of the B images are. Means are over the abnormal (A) or normal (N) images:
        R = n/B · (λ₂ · mean_A(l₀ − l₁) + λ₃ · max(0, mean_A ‖z₁ − z₀‖² − mean_N ‖z₁ − z₀‖²)),
    and 0 if no image or all images are abnormal. z₀, l₀, n and the mean over N are constants. Cost: 5 passes, as the
    base.

    Where sources differ: in the released code l₁ of the first term is a constant too, so λ₂ has no effect on the
    weights, and the FastAT benchmark and SORA's repository copy that; `detach=false` takes its gradient instead. Its
    λ₁, a factor of R, is 1 in all published commands, and omitted here.

    Args:
        base: Method that makes δ, `fgsm-rs` (RS-AAER) or `n-fgsm` (N-AAER).
        loss_weight: λ₂; by default the authors' for CIFAR-10 at ε = 8/255, 2.5 or 1.5 by base. At 12, 16 and 32/255
            they set 5, 7 and 5.75 (RS), or 5, 8.5 and 2.75 (N).
        logit_weight: λ₃; by default 1.5 or 0.15. At 12, 16 and 32/255: 2.75, 3.25 and 1.5, or 0.55, 1.5 and 0.75.
        detach: Treat l₁ in the first term as a constant, as the released code does.

    Raises:
        ValueError: If a setting is out of range.

    Reference:
        Lin, Yu and Liu (NeurIPS 2023), "Eliminating catastrophic overfitting via abnormal adversarial examples
        regularization", https://arxiv.org/abs/2404.08154; github.com/tmllab/2023_NeurIPS_AAER, with which gradients
        agree.
    """

    BASES: ClassVar = {"fgsm-rs": FGSMRS, "n-fgsm": NFGSM}

    base: str = "n-fgsm"
    loss_weight: float | None = None
    logit_weight: float | None = None
    detach: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(loss_weight=self.loss_weight, logit_weight=self.logit_weight)
        given = (self.loss_weight, self.logit_weight)
        self._weights = [
            known if weight is None else weight for weight, known in zip(given, WEIGHTS[self.base], strict=True)
        ]

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        x, y, inner = batch.x, batch.y, self.perturbing(model)
        seen: list[Tensor] = []

        def watched(images: Tensor) -> Tensor:
            logits = inner(images)
            seen.append(logits.detach())
            return logits

        delta = self.perturb(watched, x, y, epsilon=batch.epsilon, rng=batch.rng)
        (before,) = seen  # logits of the only pass of the base, at x + η
        after = model(self.clip(x + delta))
        losses = (F.cross_entropy(logits, y, reduction="none") for logits in (before, after))
        loss = batch.cross_entropy(after) + self.regulariser(before, after, *losses)
        loss.backward()
        return StepResult(loss.detach(), (after.detach().argmax(1) == y).sum())

    def regulariser(self, before: Tensor, after: Tensor, loss_before: Tensor, loss_after: Tensor) -> Tensor:
        """Compute R, a scalar, from logits (B, classes) and losses (B,) at x + η (constants) and at x + δ."""
        abnormal = loss_before > loss_after.detach()
        count, normal = abnormal.sum(), (~abnormal).sum()
        change = (after - before).square().sum(1)
        excess = _mean(change, abnormal, count) - _mean(change.detach(), ~abnormal, normal)
        fall = _mean(loss_before - (loss_after.detach() if self.detach else loss_after), abnormal, count)
        loss_weight, logit_weight = self._weights
        found = loss_weight * fall + logit_weight * excess.clamp(min=0)
        return torch.where((count > 0) & (normal > 0), abnormal.to(found.dtype).mean() * found, 0)


def _mean(values: Tensor, chosen: Tensor, count: Tensor) -> Tensor:
    """Return the mean of `values` (B,) over the `count` images that are `chosen` (B,); 0 if there are none."""
    return torch.where(chosen, values, 0).sum() / count.clamp(min=1)

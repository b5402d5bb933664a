"""Abnormal adversarial examples: images whose loss the attack lowers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from co_probe.indicators.zero_gradients import masked_mean


@dataclass(frozen=True)
class AbnormalExamples:
    """Result of `abnormal_examples`: scalars on the device of the losses.

    Attributes:
        share: Share of abnormal examples, in [0, 1].
        logit_change: Mean of ‖z₁ − z₀‖² over abnormal examples; NaN without any, or without logits.
        normal_logit_change: The same mean over the other images.
    """

    share: Tensor
    logit_change: Tensor
    normal_logit_change: Tensor


def abnormal_examples(losses: tuple[Tensor, Tensor], logits: tuple[Tensor, Tensor] | None = None) -> AbnormalExamples:
    """Compute the share of images whose loss an attack lowers, l₀ > l₁, and the change of their logits.

    Args:
        losses: Losses of each image at the attack's start (x, or x + noise) and at the perturbed image, two tensors
            (B,), in nats.
        logits: Logits at the same two points, two tensors (B, classes).

    Returns:
        The share and the two mean squared changes (sum over classes).

    Note:
        Cost: none, since the training step computes both forward passes. Healthy: a small share with small changes; at
        the onset both surge.

    Reference:
        AAER (NeurIPS 2023, arXiv 2404.08154). The released code compares with the noisy start, not with the clean
        image. Its regulariser multiplies the share by a term of detached losses, so that only the logits carry a
        gradient; here the three numbers are separate.
    """
    start, end = (loss.detach().float() for loss in losses)
    abnormal = start > end
    nan = torch.full((), torch.nan, device=start.device)
    if logits is None:
        return AbnormalExamples(abnormal.float().mean(), nan, nan)
    change = (logits[1].detach().float() - logits[0].detach().float()).square().sum(1)
    return AbnormalExamples(abnormal.float().mean(), masked_mean(change, abnormal), masked_mean(change, ~abnormal))


def loss_gain(losses: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the mean of l₁ − l₀ over images, in nats: the increase of the loss by the attack.

    Args:
        losses: As in `abnormal_examples`.

    Returns:
        A scalar. Healthy: positive; after a collapse it may fall below 0, but late: in public traces it stays positive
        for 200 updates after PGD accuracy is lost.

    Note:
        Cost: none.

    Reference:
        The repository adversarial-robustness-co-monitor, which logs it per window of updates.
    """
    return (losses[1].detach().float() - losses[0].detach().float()).mean()


def logit_change(logits: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the mean squared difference between the logits at the attack's start and end.

    Args:
        logits: As in `abnormal_examples`.

    Returns:
        A scalar, at least 0, over images and classes. Healthy: small; at the onset it surges.

    Note:
        Cost: none.

    Reference:
        The regulariser of FGSM-PGI (Jia et al. 2022), measured instead of penalised.
    """
    return (logits[1].detach().float() - logits[0].detach().float()).square().mean()

"""Abnormal adversarial examples: images whose loss the attack lowers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from co_probe.indicators.zero_gradients import masked_mean


@dataclass(frozen=True)
class AbnormalExamples:
    """What `abnormal_examples` returns, as scalars on the device of the losses.

    Attributes:
        share: Share of abnormal examples, in [0, 1].
        logit_change: Mean of ‖z₁ − z₀‖² over abnormal examples; NaN without any, or without logits.
        normal_logit_change: The same over the other images.
    """

    share: Tensor
    logit_change: Tensor
    normal_logit_change: Tensor


def abnormal_examples(losses: tuple[Tensor, Tensor], logits: tuple[Tensor, Tensor] | None = None) -> AbnormalExamples:
    """Share of images with l₀ > l₁, and how far their logits move from the attack's start to its end.

    Args:
        losses: Losses of each image at the attack's start (x + noise, or x where it starts there) and at the
            perturbed image, two tensors (B,), in nats.
        logits: Logits at the same two points, two tensors (B, classes).

    Returns:
        The share and the two mean squared changes (sum over classes).

    Note:
        Cost: none: the two forward passes of the step have all of it. Healthy: few, with small changes; at the onset
        both surge. For FGSM without a random start the reference point is the clean image.

    Reference:
        AAER (NeurIPS 2023, arXiv 2404.08154). The reference is the noisy start and not the clean image in the
        released code. Its regulariser multiplies the share by a term that is built from detached losses, so that
        only the logits carry a gradient; as indicators the three numbers stand apart here.
    """
    start, end = (loss.detach().float() for loss in losses)
    abnormal = start > end
    nan = torch.full((), torch.nan, device=start.device)
    if logits is None:
        return AbnormalExamples(abnormal.float().mean(), nan, nan)
    change = (logits[1].detach().float() - logits[0].detach().float()).square().sum(1)
    return AbnormalExamples(abnormal.float().mean(), masked_mean(change, abnormal), masked_mean(change, ~abnormal))


def loss_gain(losses: tuple[Tensor, Tensor]) -> Tensor:
    """Mean of l₁ − l₀ over images, in nats: what the attack's step gains.

    Args:
        losses: As in `abnormal_examples`.

    Returns:
        A scalar. Healthy: positive; collapsed: it can fall below 0, but late: in public traces the mean stays
        positive for 200 updates after PGD accuracy is gone.

    Note:
        Cost: none.

    Reference:
        The repository adversarial-robustness-co-monitor, which logs it per window of updates.
    """
    return (losses[1].detach().float() - losses[0].detach().float()).mean()


def logit_change(logits: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared difference of the logits at the attack's start and end, over images and classes.

    Args:
        logits: As in `abnormal_examples`.

    Returns:
        A scalar, at least 0. Healthy: small; at the onset it surges.

    Note:
        Cost: none.

    Reference:
        The regulariser of FGSM-PGI (Jia et al. 2022), measured instead of penalised.
    """
    return (logits[1].detach().float() - logits[0].detach().float()).square().mean()

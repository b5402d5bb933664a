"""Participation ratio and entropy gap: concentration of the attack's gradient on few pixels."""

import torch
from torch import Tensor

from co_probe.indicators.zero_gradients import Gradients, ImageGradients, masked_mean

SMALLEST = 1e-12  # least ρ in the logarithm, so that zero components do not make the entropy gap infinite


def participation_ratio(g_attack: Gradients) -> Tensor:
    """Compute the mean over images of (‖g‖₁/‖g‖₂)²/d: the effective share of components in the gradient.

    Args:
        g_attack: g, the input gradient of the attack, (B, ...), with d components per image; any scale per image.

    Returns:
        A scalar in [1/d, 1]: 1 if all components have the same magnitude, 1/d if all but one are zero. NaN if every
        image has a zero gradient.

    Note:
        Cost: none. It falls at the onset and rebounds afterwards, so a threshold on its level is a poor alarm.
        √(value) is the cosine between the steps of an L2 and of an L∞ attack.

    Reference:
        arXiv 2505.02360 (PR₁, there without the division by d); its README claims a sharp fall before the collapse
        and gives no threshold.
    """
    attack = ImageGradients.of(g_attack)
    ratio = attack.l1.square() / attack.squared_l2 / attack.rows.shape[1]
    return masked_mean(ratio, attack.nonzero)


def entropy_gap(g_attack: Gradients) -> Tensor:
    """Compute the mean over images of H_m − H, with ρ = |g|/‖g‖₁, H = −Σ ρ ln ρ and H_m = −(1/d) Σ ln ρ.

    Args:
        g_attack: g, as in `participation_ratio`.

    Returns:
        A scalar, at least 0, in nats: 0 if all components have the same magnitude; it grows as the gradient
        concentrates. NaN if every image has a zero gradient. Components below 1e-12 of ‖g‖₁ are set to that value.

    Note:
        Cost: none.

    Reference:
        arXiv 2505.02360. By its definition the gap rises as |g| concentrates; the released README says that it
        drops before the collapse. Its adaptive norm is q = 1 + β/(H_m − H).
    """
    attack = ImageGradients.of(g_attack)
    shares = attack.magnitudes / attack.l1.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
    logs = shares.clamp(min=SMALLEST).log()
    return masked_mean((shares * logs).sum(1) - logs.mean(1), attack.nonzero)

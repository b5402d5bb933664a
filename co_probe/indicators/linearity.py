"""SORA's linearity ratio: how much of the loss gain that the attack's gradient promises does the update still see?"""

from torch import Tensor

from co_probe.indicators.zero_gradients import masked_mean, nonzero


def linearity_ratio(g_attack: Tensor, g_update: Tensor) -> Tensor:
    """Mean over images of sign(g)·g' / ‖g‖₁, clipped to [-1, 1].

    Args:
        g_attack: g, the input gradient that the attack steps along, (B, ...).
        g_update: g', the input gradient at the perturbed image, of the same shape and in the same scale: both of the
            mean loss, or both of the sum.

    Returns:
        A scalar in [-1, 1]: 1 where the loss is linear, 0 where g' no longer knows of the step, negative where the
        loss turns back. NaN if every image has a zero g.

    Note:
        Cost: none, as `pert_alignment`. Healthy: near 1; collapsed: about 0 or below.

    Reference:
        SORA (arXiv 2606.00738), `linearity_coef.py` of the released code, its sign variant; the ratio drives SORA's
        step size and has no threshold there. The released code clips the mean over the batch, as here.
    """
    attack, update = (gradient.detach().flatten(1).float() for gradient in (g_attack, g_update))
    scale = attack.abs().amax(1, keepdim=True).clamp(min=1e-38)
    attack, update = attack / scale, update / scale
    ratio = (attack.sign() * update).sum(1) / attack.abs().sum(1)
    return masked_mean(ratio, nonzero(g_attack)).clamp(-1, 1)

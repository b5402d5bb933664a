"""SORA's linearity ratio: the part of the loss gain predicted at the start that the gradient at x + δ confirms."""

from torch import Tensor

from co_probe.indicators.zero_gradients import Gradients, ImageGradients, masked_mean


def linearity_ratio(g_attack: Gradients, g_update: Gradients) -> Tensor:
    """Compute the mean over images of sign(g)·g' / ‖g‖₁, clipped to [-1, 1].

    Args:
        g_attack: g, the input gradient that the attack uses, (B, ...).
        g_update: g', the input gradient at the perturbed image, of the same shape and in the same scale: both of the
            mean loss, or both of the sum.

    Returns:
        A scalar in [-1, 1]: 1 where the loss is linear, 0 where g' is unrelated to the step, negative where the loss
        decreases again. NaN if every image has a zero g.

    Note:
        Cost: none, as `pert_alignment`. Healthy: near 1; collapsed: about 0 or below.

    Reference:
        SORA (arXiv 2606.00738), `linearity_coef.py` of the released code, its sign variant; the ratio controls SORA's
        step size, without a threshold. The released code clips the mean over the batch, as here.
    """
    attack, update = ImageGradients.of(g_attack), ImageGradients.of(g_update)
    ratio = (attack.signs * update.rows).sum(1) / attack.l1 * (update.scale / attack.scale)
    return masked_mean(ratio, attack.nonzero).clamp(-1, 1)

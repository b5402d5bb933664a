"""PertAlign and sign agreement: agreement of the input gradients before and after the attack's step."""

from torch import Tensor

from co_probe.indicators.zero_gradients import Gradients, ImageGradients, masked_mean, nonzero


def pert_alignment(g_attack: Gradients, g_update: Gradients) -> Tensor:
    """Compute the mean over images of cos(g, g'), for the input gradients of attack and update.

    g is the input gradient that the attack uses (at the clean image, or at its noisy start), g' the input gradient of
    the training loss at the perturbed image. The two agree where the loss is linear within the ε-ball.

    Args:
        g_attack: g, (B, ...), of the loss of each image; any scale per image.
        g_update: g', of the same shape, any scale per image.

    Returns:
        A scalar in [-1, 1]; NaN if every image has a zero gradient. Images with a zero gradient are skipped
        (`co_probe.indicators.zero_gradients.masked_share` reports their share).

    Note:
        Cost: none, if the training step computes both gradients (the update pass must compute the input gradient).
        Healthy: 0.75 to 0.9 on CIFAR-10, 0.4 to 0.8 on digits; collapsed: about 0. It starts near 0 at random weights
        and depends on the step size: compare values at one step size only. BatchNorm is in the mode of the training
        loop, so that both gradients see batch statistics.

    Reference:
        SORA (arXiv 2606.00738), `alignment.py` of the released code: cosine per sample, mean over the batch.
    """
    attack, update = ImageGradients.of(g_attack), ImageGradients.of(g_update)
    norms = (attack.squared_l2 * update.squared_l2).sqrt()
    return masked_mean((attack.rows * update.rows).sum(1) / norms, nonzero(attack, update))


def sign_agreement(g_attack: Gradients, g_update: Gradients) -> Tensor:
    """Compute the share of components in which g and g' have the same sign, over images with non-zero gradients.

    Args:
        g_attack: g, (B, ...).
        g_update: g', of the same shape.

    Returns:
        A scalar in [0, 1]; NaN if every image has a zero gradient.

    Note:
        Cost: none, as `pert_alignment`. Healthy: well above 0.5; collapsed: about 0.5.

    Reference:
        The repository adversarial-robustness-co-monitor, where it separates windows as well as the cosine.
    """
    attack, update = ImageGradients.of(g_attack), ImageGradients.of(g_update)
    return masked_mean((attack.signs == update.signs).float().mean(1), nonzero(attack, update))

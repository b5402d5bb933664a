"""Spectrum of perturbations in the cosine transform."""

from torch import Tensor

from co_probe.numerics.dct import dct2


def spectrum(delta: Tensor) -> Tensor:
    """Compute the share of each frequency of the cosine transform in the energy of each perturbation.

    Entry (0, 0) is the constant; energy is summed over channels. Each image's shares are in [0, 1] and add up to 1.
    White noise has the same share everywhere; perturbations of a healthy model concentrate in low frequencies, and the
    share of high frequencies grows when a model overfits catastrophically.

    Cost: no pass of a model.

    Args:
        delta: Perturbations, (n, C, H, W).

    Returns:
        Shares, float64 (m, H, W); the n − m perturbations that are 0 everywhere are skipped.

    Example:
        >>> co_probe.indicators.spectrum(FGSM(epsilon=8 / 255)(model, x, y)).mean(0)

    Reference:
        arXiv 2206.08242, section 5.
    """
    energy = dct2(delta.double()).square().sum(1)
    energy = energy[energy.sum((1, 2)) > 0]
    return energy / energy.sum((1, 2), keepdim=True)


def low_frequency_share(shares: Tensor, below: int) -> Tensor:
    """Compute the share of the energy in the `below`×`below` lowest frequencies.

    Args:
        shares: Result of `spectrum`, (m, H, W).
        below: Side of the square of frequencies, from 0 to the image's smaller side.

    Returns:
        Shares in [0, 1], (m,).
    """
    return shares[:, :below, :below].sum((1, 2))

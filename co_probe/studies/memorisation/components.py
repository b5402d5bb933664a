"""Components of the filters of the two-layer network along the signal and the noise of training images."""

import torch
from torch import Tensor

from co_probe.studies.memorisation.model import TwoLayerCNN


@torch.no_grad()
def signal_components(model: TwoLayerCNN, signal: Tensor) -> Tensor:
    """Return max_r ⟨w_r⁻, −w*⟩ and max_r ⟨w_r⁺, w*⟩, (2,): for each class, its filters' component along its signal."""
    along = model.filters @ signal
    return torch.stack([-along[0], along[1]]).amax(1)


@torch.no_grad()
def noise_components(model: TwoLayerCNN, signal: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return max_{r,j} ⟨w_r, ξ_i[j]⟩ over the filters of the class of image i, (B,): their component along its noise.

    The noise ξ is the image minus its projection on the signal, and therefore 0 on the signal patch.

    Args:
        model: The network.
        signal: w*, (d,).
        x: Images, (B, d, P, 1).
        y: Classes, (B,).
    """
    patches = x.flatten(2).transpose(1, 2)
    noise = patches - (patches @ signal)[..., None] * signal
    return torch.einsum("bpd,brd->bpr", noise, model.filters[y]).flatten(1).amax(1)

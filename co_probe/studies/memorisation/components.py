"""How far the filters of the two-layer network point along the signal and along the noise of training images."""

import torch
from torch import Tensor

from co_probe.studies.memorisation.model import TwoLayerCNN


@torch.no_grad()
def signal_components(model: TwoLayerCNN, signal: Tensor) -> Tensor:
    """max_r ⟨w_r⁻, −w*⟩ and max_r ⟨w_r⁺, w*⟩, (2,): how far filters of each sign point along their class's signal."""
    along = model.filters @ signal
    return torch.stack([-along[0], along[1]]).amax(1)


@torch.no_grad()
def noise_components(model: TwoLayerCNN, signal: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """max_{r,j} ⟨w_r, ξ_i[j]⟩ over the filters of the sign of image i, (B,): how far they point along its noise.

    `x`: (B, d, P, 1); ξ is what is left of it without its part along the `signal` (d,), so 0 on the signal's patch.
    """
    patches = x.flatten(2).transpose(1, 2)
    noise = patches - (patches @ signal)[..., None] * signal
    return torch.einsum("bpd,brd->bpr", noise, model.filters[y]).flatten(1).amax(1)

"""What all attacks share: the input gradient and the two projections."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An L∞ attack: a frozen set of settings that is called to make a perturbation.

    `epsilon`: bound on |δ|, in pixel units of a [0, 1] image. Raises ValueError if it is not greater than 0.
    """

    epsilon: float

    def __post_init__(self):
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be greater than 0, not {self.epsilon:g}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """δ, of the shape of `x`, with |δ| ≤ ε and x + δ in [0, 1].

        `x`: (B, C, H, W) in [0, 1]; `y`: (B,) class numbers; `rng`: on the device of `x`, for attacks that draw.
        The model is used in the mode it is in; no parameter's `.grad` is touched.
        """
        raise NotImplementedError


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """∇ₓ of the summed cross-entropy, of the shape of `x`: the gradient for the input alone, none for weights.

    The sum (not the mean) keeps small gradients of a large batch from underflowing; signs are the same.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(model(x), y, reduction="sum")
        return torch.autograd.grad(loss, x)[0]


def project(delta: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """The nearest δ with |δ| ≤ ε and x + δ in [0, 1]."""
    return delta.clamp(-epsilon, epsilon).clamp(-x, 1 - x)

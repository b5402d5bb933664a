"""What all attacks share: the input gradient, and the limits that images and perturbations keep to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.config.labels import NORMS

Rng = torch.Generator | None  # on the device of the images; None: the global one
Loss = Callable[[Tensor, Tensor], Tensor]  # (logits (B, classes), y (B,)) -> one number an image (B,), to be raised


class Disturbance:
    """What turns images into others of the same class: an attack, noise, or nothing at all."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None) -> Tensor:
        """δ, of the shape of `x`, with x + δ within the `bounds` of the model.

        `x`: (B, C, H, W) within them; `y`: (B,) class numbers; `rng`: on the device of `x`, for those that draw.
        The model is used in the mode it is in; no parameter's `.grad` is touched.
        """
        raise NotImplementedError

    def survivors(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None, alive: Tensor | None = None) -> Tensor:
        """Which images are still classified rightly, bool (B,): their mean is the robust accuracy.

        Here: those that are right at x + δ. Attacks that search (PGD, AutoAttack) count an image as broken when any
        point they visit is misclassified, the image itself first, and stop attacking it there.
        `alive`: the images that may have survived, if something that this attack `covers` is known to have broken
        the others; only these are attacked.
        """
        return right(model, x + self(model, x, y, rng), y)

    def covers(self, other: "Disturbance") -> bool:
        """Whether an image that `other` broke is sure to count as broken by this one, given the same `rng`."""
        return False

    @property
    def version(self) -> str:
        """What a result depends on besides the settings: the version of another package, or nothing."""
        return ""


@dataclass(frozen=True)
class Clean(Disturbance):
    """No perturbation: δ = 0."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None) -> Tensor:
        return torch.zeros_like(x)


@dataclass(frozen=True, kw_only=True)
class Attack(Disturbance):
    """A frozen set of settings that is called to make a perturbation with ‖δ‖ ≤ ε, of each pixel unless it says more.

    `epsilon`: the bound, in pixel units of a [0, 1] image. Raises ValueError if it is not greater than 0.
    """

    epsilon: float
    norms: ClassVar[tuple[str, ...]] = ("linf",)  # whose balls it keeps to, unless it has a field `norm`

    def __post_init__(self):
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be greater than 0, not {self.epsilon:g}")


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The loss that models are trained on, in nats, (B,)."""
    return F.cross_entropy(logits, y, reduction="none")


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss = cross_entropy) -> Tensor:
    """∇ₓ of the summed loss, of the shape of `x`: the gradient for the input alone, none for weights.

    The sum (not the mean) keeps small gradients of a large batch from underflowing; signs are the same.
    """
    return gradient_and_logits(model, x, y, loss)[0]


def gradient_and_logits(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """`input_gradient`, and the logits (B, classes) that it was computed from."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        return torch.autograd.grad(loss(logits, y).sum(), x)[0], logits.detach()


@torch.no_grad()
def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the model gives each image its class, bool (B,)."""
    return model(x).argmax(1) == y


def bounds(model: nn.Module) -> tuple[float, float]:
    """The least and the greatest value that a pixel may have: (0, 1), if the model's attribute `bounds` says no other.

    A property of the images that a model takes, so it stands with the model; ±∞ for data that are no images.
    """
    return getattr(model, "bounds", (0.0, 1.0))


def clip(x: Tensor, model: nn.Module) -> Tensor:
    """The nearest image within the `bounds` of the model."""
    return x.clamp(*bounds(model))


def project(delta: Tensor, x: Tensor, epsilon: float, model: nn.Module, norm: str = "linf") -> Tensor:
    """δ brought into the ε-ball of `norm`, and then x + δ into the `bounds` of the model; in L∞ the nearest such δ.

    In L2 both limits are kept too, since clipping towards an x within the bounds only shortens δ.
    """
    low, high = bounds(model)
    if norm == "l2":
        return (delta * (epsilon / lengths(delta).clamp(min=epsilon))).clamp(low - x, high - x)
    return delta.clamp(-epsilon, epsilon).clamp(low - x, high - x)


def lengths(x: Tensor) -> Tensor:
    """The Euclidean length of each image over all of its numbers, (B, 1, 1, 1)."""
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def steepest(gradient: Tensor, norm: str) -> Tensor:
    """The step of length 1 in `norm` along which a loss of this gradient rises most, for each image; 0 where it is 0.

    Its sign for `linf`, its direction for `l2`.
    """
    if norm == "linf":
        return gradient.sign()
    return gradient / lengths(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)


def check_norm(norm: str) -> None:
    """Raise ValueError if `norm` is none that there is a ball of."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")


def uniform(x: Tensor, epsilon: float, norm: str, rng: Rng) -> Tensor:
    """Uniform draws from the ε-ball of `norm`, of the shape of `x`."""
    if norm == "linf":
        return torch.empty_like(x).uniform_(-epsilon, epsilon, generator=rng)
    direction = torch.empty_like(x).normal_(generator=rng)
    share = torch.rand(len(x), 1, 1, 1, generator=rng, dtype=x.dtype, device=x.device) ** (1 / x[0].numel())
    return epsilon * share * direction / lengths(direction)

"""The interface of attacks, the input gradient, and the projections onto ε-balls and image bounds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from co_probe.config.labels import NORMS
from co_probe.errors import UserError

Rng = torch.Generator | None  # on the device of the images; None: the global generator
Bounds = tuple[float, float]  # least and greatest pixel value; (-inf, inf) for data that are not images
Model = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> logits (B, classes): an nn.Module or a `Forward`
Mask = Tensor | None  # bool (B,)
Targets = Tensor | None  # target classes (B,); None: the attack is untargeted
Loss = Callable[[Tensor, Tensor], Tensor]  # (logits (B, classes), y (B,)) -> per-example loss (B,)

ROUNDING = 1e-6  # tolerance of the bounds of pixels, relative to the bound if that exceeds 1


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """Base class of attacks, noise and the zero perturbation.

    A subclass is a frozen dataclass that defines `generate`, plus one line in `co_probe.attacks.named`.

    Args:
        bounds: Least and greatest pixel value that x + δ may have.

    Raises:
        ValueError: If the lower bound is not below the upper one.
    """

    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"bounds must be (low, high) with low < high, not {self.bounds}")

    def __call__(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None) -> Tensor:
        """Make δ.

        The mode of the model is not changed, and no parameter's `.grad` is touched.

        Args:
            model: Classifier; used on batches of the size of `x`.
            x: Images, float (B, C, H, W), within `bounds`.
            y: Classes, int64 (B,).
            rng: Source of random numbers, on the device of `x`; the global one if None.
            targets: Target classes, int64 (B,); None for an untargeted attack. Perturbations that do not depend on the
                model (noise) ignore them.

        Returns:
            δ, of the shape of `x`, with x + δ within `bounds`.

        Raises:
            UserError: If `x`, `y` or `targets` do not have these shapes, or `x` is not within `bounds`.
        """
        check_input(x, y, targets, self.bounds)
        return self.generate(model, x, y, rng, targets)

    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None) -> Tensor:
        """Make δ like `__call__`, without checking the input, which would synchronise a GPU.

        Subclasses define this method. Training and probes call it: images of a run are checked when its data are
        loaded, and a study may have moved pixels out of the bounds since then.
        """
        raise NotImplementedError(f"{type(self).__name__} must define generate")

    def robust_mask(
        self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None, candidates: Mask = None
    ) -> Tensor:
        """Find the images that are still classified correctly under attack; the mean is the robust accuracy.

        With `targets` too, an image counts as broken as soon as its predicted class is not `y`.

        Args:
            model: As in `__call__`.
            x: As in `__call__`.
            y: As in `__call__`.
            rng: As in `__call__`.
            targets: As in `__call__`.
            candidates: Images that may be robust, bool (B,), if an attack that this one `covers` has broken the
                others; only these are attacked.

        Returns:
            bool (B,).
        """
        check_input(x, y, targets, self.bounds)
        return self.robust_mask_unchecked(model, x, y, rng, targets, candidates)

    def robust_mask_unchecked(
        self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None, candidates: Mask = None
    ) -> Tensor:
        """Find the same images as `robust_mask`, without checking the input.

        The default tests x + δ alone. Iterative attacks (PGD, AutoAttack) count an image as broken if any point that
        they visit is misclassified, x included, and stop attacking it there.
        """
        return is_correct(model, x + self.generate(model, x, y, rng, targets), y)

    def covers(self, other: "Perturbation") -> bool:
        """Return whether this attack breaks every image that `other` breaks, given the same `rng`."""
        return False

    @property
    def version(self) -> str:
        """Version of the package that makes the perturbation, stored with results; empty for co-probe's own."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Clean(Perturbation):
    """No perturbation: δ = 0."""

    @override
    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None) -> Tensor:
        return torch.zeros_like(x)


@dataclass(frozen=True, kw_only=True)
class Attack(Perturbation):
    """A perturbation within an ε-ball: ‖δ‖ ≤ ε.

    Args:
        epsilon: Norm bound, in pixel units of a [0, 1] image.

    Raises:
        ValueError: If `epsilon` is not greater than 0, or the field `norm` of a subclass is not the name of a norm.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)  # supported norms of an attack without a field `norm`
    epsilon: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be greater than 0, not {self.epsilon:g}")
        if (norm := getattr(self, "norm", "linf")) not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")


def check_input(x: Tensor, y: Tensor, targets: Targets, bounds: Bounds) -> None:
    """Raise UserError unless these are images within `bounds` with a class (and target) each."""
    if x.ndim != 4 or not x.is_floating_point():
        raise UserError(f"attacks take float images of shape (B, C, H, W), not {_seen(x)}")
    for name, classes in (("y", y), ("targets", targets)):
        if classes is not None and classes.shape != (len(x),):
            raise UserError(f"{name} must hold a class number for each of {len(x)} images, not be {_seen(classes)}")
    low, high = bounds
    if not x.numel() or (low, high) == (-torch.inf, torch.inf):
        return
    least, greatest = (value.item() for value in x.detach().aminmax())
    if not (least >= low - _slack(low) and greatest <= high + _slack(high)):  # also for NaN
        raise UserError(
            f"images must be within {low:g} and {high:g}, and these reach from {least:.4g} to {greatest:.4g}: scale "
            "them, or give the attack their bounds=(low, high)"
        )


def _seen(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _slack(bound: float) -> float:
    return ROUNDING * max(1.0, abs(bound))


@contextmanager
def frozen_weights(model: Model) -> Iterator[None]:
    """Disable gradients of the weights of `model` inside the context."""
    parameters = getattr(model, "parameters", tuple)  # a `Forward` has them too
    learning = [parameter for parameter in parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the per-example cross-entropy in nats, (B,)."""
    return F.cross_entropy(logits, y, reduction="none")


def input_gradient(model: Model, x: Tensor, y: Tensor, loss: Loss = cross_entropy, targets: Targets = None) -> Tensor:
    """Return the gradient of the summed loss with respect to the input alone, of the shape of `x`.

    The sum (not the mean) keeps small gradients of a large batch from underflowing; signs are the same.
    With `targets`, the gradient of the negative loss of these classes: following it leads towards them.
    """
    return gradient_and_logits(model, x, y, loss, targets)[0]


def gradient_and_logits(
    model: Model, x: Tensor, y: Tensor, loss: Loss, targets: Targets = None
) -> tuple[Tensor, Tensor]:
    """Return `input_gradient` and the logits (B, classes) that it was computed from."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        return torch.autograd.grad(objective(loss, logits, y, targets).sum(), x)[0], logits.detach()


def objective(loss: Loss, logits: Tensor, y: Tensor, targets: Targets) -> Tensor:
    """Return the per-example objective of an attack, (B,): the loss of `y`, or minus the loss of `targets`."""
    return loss(logits, y) if targets is None else -loss(logits, targets)


@torch.no_grad()
def is_correct(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Return whether each image is classified correctly, bool (B,)."""
    return model(x).argmax(1) == y


def project(delta: Tensor, x: Tensor, epsilon: float, bounds: Bounds, norm: str = "linf") -> Tensor:
    """Project δ onto the ε-ball of `norm`, then x + δ onto `bounds`; in L∞ the result is the nearest such δ.

    In L2 both limits hold too, because clipping towards x, which is within the bounds, only shortens δ.
    """
    low, high = bounds
    if norm == "l2":
        return (delta * (epsilon / lengths(delta).clamp(min=epsilon))).clamp(low - x, high - x)
    return delta.clamp(-epsilon, epsilon).clamp(low - x, high - x)


def lengths(x: Tensor) -> Tensor:
    """Return the Euclidean norm of each example, (B, 1, 1, 1)."""
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def steepest(gradient: Tensor, norm: str) -> Tensor:
    """Return the steepest ascent direction of length 1 in `norm`; 0 where the gradient is 0.

    The sign of the gradient for `linf`, its direction for `l2`.
    """
    if norm == "linf":
        return gradient.sign()
    return gradient / lengths(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)


def uniform(x: Tensor, epsilon: float, norm: str, rng: Rng) -> Tensor:
    """Draw uniformly from the ε-ball of `norm`, in the shape of `x`."""
    if norm == "linf":
        return torch.empty_like(x).uniform_(-epsilon, epsilon, generator=rng)
    direction = torch.empty_like(x).normal_(generator=rng)
    share = torch.rand(len(x), 1, 1, 1, generator=rng, dtype=x.dtype, device=x.device) ** (1 / x[0].numel())
    return epsilon * share * direction / lengths(direction)


def random_start(x: Tensor, epsilon: float, bounds: Bounds, rng: Rng, norm: str = "linf") -> Tensor:
    """Draw δ uniformly from the ε-ball of `norm`, with x + δ clipped to `bounds`."""
    return project(uniform(x, epsilon, norm, rng), x, epsilon, bounds, norm)

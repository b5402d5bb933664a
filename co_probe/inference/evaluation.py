"""Effect of a perturbation on a model, per image."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from co_probe.attacks.base import Bounds, Model, Perturbation, Rng
from co_probe.data.dataset import at_least_float32
from co_probe.inference.forward import Forward

Generator = Callable[..., Tensor]  # (model, x, y, rng=None[, state=None]) -> δ; an Attack, or a method's `perturb`


@dataclass(frozen=True)
class Outcome:
    """Cross-entropy in nats, float32 or float64 (n,), and correctness of the predicted class, bool (n,)."""

    loss: Tensor
    correct: Tensor

    @property
    def accuracy(self) -> float:
        """Share of correctly classified images, in [0, 1]."""
        return self.correct.float().mean().item()


def batch_size(x: Tensor) -> int:
    """Choose the batch size for evaluating images like `x` (n, C, H, W): to fit CPU caches, or to fill a GPU."""
    small = 500 if x.device.type == "cuda" else 125  # for images up to 64×64; the same number of pixels for larger ones
    return max(1, min(small, small * 64**2 // (x.shape[-2] * x.shape[-1])))


def perturb(
    model: Model,
    generator: Generator,
    x: Tensor,
    y: Tensor,
    rng: Rng = None,
    state: Tensor | None = None,
    targets: Tensor | None = None,
) -> Tensor:
    """Make δ for any number of images in eval mode, batch by batch, without checking the images.

    Args:
        model: Classifier, an `nn.Module` or a `Forward`.
        generator: An attack, the `perturb` of a method at some ε, or another function with the same signature.
        x: Images (n, C, H, W).
        y: Classes (n,).
        rng: Source of random numbers, on the device of `x`.
        state: What a method stores for each of these images, (n, ...), or None.
        targets: Target classes of a targeted attack, (n,), or None.

    Returns:
        δ, of the shape of `x`.
    """
    per_image = {name: value for name, value in (("state", state), ("targets", targets)) if value is not None}
    make = generator.generate if isinstance(generator, Perturbation) else generator
    forward, deltas, size = Forward.of(model).in_eval(), [], batch_size(x)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        more = {name: value[part] for name, value in per_image.items()}
        deltas.append(make(forward, x[part], y[part], rng=rng, **more))
    return torch.cat(deltas)


@torch.no_grad()
def outcome(model: Model, x: Tensor, y: Tensor, delta: Tensor | None = None, bounds: Bounds = (0.0, 1.0)) -> Outcome:
    """Compute loss and correctness of `model` in eval mode at x + δ clipped to `bounds`, or at x without δ."""
    if delta is not None:
        x = (x + delta).clamp(*bounds)
    forward, losses, correct = Forward.of(model).in_eval(), [], []
    for xs, ys in zip(x.split(batch_size(x)), y.split(batch_size(x)), strict=True):
        logits = at_least_float32(forward(xs))
        losses.append(F.cross_entropy(logits, ys, reduction="none"))
        correct.append(logits.argmax(1) == ys)
    return Outcome(torch.cat(losses), torch.cat(correct))

"""Label signal: whether a perturbation against a class makes the model predict that class."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from co_probe.attacks.base import Bounds
from co_probe.attacks.fgsm import FGSM
from co_probe.data.dataset import at_least_float32
from co_probe.inference.evaluation import batch_size, perturb
from co_probe.inference.forward import Forward


@dataclass(frozen=True)
class LabelSignal:
    """Effect on real images of perturbations made on a grey image.

    Attributes:
        raised: For each image, share of classes whose logit is raised by the perturbation against them, (n,); NaN if
            every class is masked.
        dominated: For each image, share of classes that the perturbation against them makes the model predict, (n,).
        masked: Share of classes with a zero gradient, in [0, 1], which have no perturbation and are excluded.
    """

    raised: Tensor = field(repr=False)
    dominated: Tensor = field(repr=False)
    masked: float

    @property
    def value(self) -> float | None:
        """Mean of `raised`, in [0, 1]; None if every class is masked."""
        return None if self.masked == 1 else self.raised.mean().item()


def label_signal(
    model: nn.Module, x: Tensor, *, epsilon: float, norm: str = "linf", bounds: Bounds = (0.0, 1.0)
) -> LabelSignal:
    """Compute how often FGSM against a class, made on a uniform grey image, raises the logit of that class.

    A share of images × classes, in [0, 1]. The perturbation should lower that logit, and does not depend on the image
    that it is added to. Low in a healthy model; high after catastrophic overfitting, when the perturbation itself
    carries the label that it was computed with. `dominated` is the stricter share of those that the model then
    classifies as that class. On digits, which are far from uniform grey, it does not separate healthy from collapsed
    models: 0.2 to 0.5 for both.

    Cost: 1 forward-backward pass of as many images as there are classes, and classes + 1 forward passes of `x`.
    BatchNorm is in eval mode.

    Args:
        model: Takes (B, C, H, W) images and returns (B, classes) logits. Used in eval mode; its mode is restored.
        x: Images, (n, C, H, W). Their labels are not used.
        epsilon: Norm bound of FGSM, in pixel units of a [0, 1] image.
        norm: The norm that `epsilon` bounds, `linf` or `l2`.
        bounds: Least and greatest value of a pixel; if infinite, the range of `x` sets the grey.

    Returns:
        Both shares of each image, and the share of classes that is masked.

    Example:
        >>> co_probe.indicators.label_signal(model, x, epsilon=8 / 255).value

    Reference:
        LIET (ICCV 2025), whose released evaluation computes both shares over the test set.
    """
    low, high = bounds if all(abs(bound) < float("inf") for bound in bounds) else (x.min().item(), x.max().item())
    with torch.no_grad():
        plain = _logits(model, x)
    classes = plain.shape[1]
    grey, labels = torch.full_like(x[:1], (low + high) / 2), torch.arange(classes, device=x.device)
    deltas = perturb(model, FGSM(epsilon=epsilon, norm=norm, bounds=bounds), grey.expand(classes, -1, -1, -1), labels)
    has_delta = deltas.flatten(1).any(1)
    raised, dominated = torch.zeros_like(plain), torch.zeros_like(plain)
    with torch.no_grad():
        for label in has_delta.nonzero().flatten().tolist():
            logits = _logits(model, (x + deltas[label]).clamp(*bounds))
            raised[:, label] = (logits[:, label] > plain[:, label]).to(plain)
            dominated[:, label] = (logits.argmax(1) == label).to(plain)
    return LabelSignal(
        raised[:, has_delta].mean(1), dominated[:, has_delta].mean(1), 1 - has_delta.double().mean().item()
    )


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits in eval mode, (n, classes)."""
    forward = Forward(model, batchnorm="eval")
    return torch.cat([at_least_float32(forward(xs)) for xs in x.split(batch_size(x))])

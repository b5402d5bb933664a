"""Checks that a foreign model fits its images and labels, before measurements."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from co_probe.data.coerce import check_labels
from co_probe.data.normalisation import NORMALISATIONS, Normalisation, as_normalisation
from co_probe.errors import UserError
from co_probe.inference.evaluation import batch_size
from co_probe.numerics.statistics import wilson

SANITY_IMAGES = 500
MARGIN, CLEAR_MARGIN = 0.015, 0.05  # gain of another normalisation for a remark, for an error


@torch.no_grad()
def logits_on(model: nn.Module, x: Tensor, what: str = "the model") -> Tensor:
    """Return the logits of `model`, in eval mode, on images (n, C, H, W): (n, classes) on the CPU, float32.

    Raises:
        UserError: The model does not accept the images, or does not return one row of logits per image.
    """
    model.eval()
    parts = []
    for images in x.split(batch_size(x)):
        try:
            logits = model(images)
        except UserError:
            raise
        except Exception as error:  # user code may raise anything
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"{what} cannot take images of shape {tuple(images.shape[1:])}: {type(error).__name__}: {reason}"
            ) from error
        if logits.ndim != 2 or len(logits) != len(images):
            raise UserError(
                f"{what} returned {tuple(logits.shape)} for images of shape {tuple(images.shape)}, "
                "and logits of shape (n, classes) are needed"
            )
        parts.append(logits.float().cpu())
    return torch.cat(parts)


def check_class_count(logits: Tensor, y: Tensor, names: tuple[str, ...] | None) -> int:
    """Return the number of classes of logits (n, classes).

    Raises:
        UserError: The number does not fit the labels, (n,), or the class names.
    """
    classes = logits.shape[1]
    check_labels(y, "test", classes)
    if names is not None and len(names) != classes:
        raise UserError(
            f"the model has {classes} classes and the data {len(names)}: is it a model of these data, or of more "
            "classes than are named?"
        )
    return classes


@dataclass(frozen=True)
class Plausibility:
    """Outcome of the check of accuracy on clean images.

    Attributes:
        remark: Finding in one line; empty if nothing is suspicious.
        serious: Whether accuracy is at chance, or clearly lower than with another normalisation.
    """

    remark: str = ""
    serious: bool = False


def plausibility(
    logits: Tensor, y: Tensor, others: Mapping[str, Tensor], which: str = "after the last checkpoint"
) -> Plausibility:
    """Check accuracy on clean images for common errors: wrong normalisation and class order.

    Args:
        logits: Logits on clean images, (n, classes).
        y: Labels, (n,).
        others: Logits with other normalisations, by description such as `without normalisation`.
        which: Name of the model in the remark.
    """
    n, chance = len(y), 1 / logits.shape[1]
    accuracy = _accuracy(logits, y)
    low, high = wilson(accuracy, n)
    best, rival = max(((_accuracy(other, y), name) for name, other in others.items()), default=(0.0, ""))
    seen = f"accuracy on clean images {which} is {accuracy:.1%} (chance: {chance:.1%})"
    if best > accuracy + MARGIN and wilson(best, n)[0] > accuracy:
        clearly = best > accuracy + CLEAR_MARGIN and wilson(best, n)[0] > high
        return Plausibility(f"{seen}, and {best:.1%} {rival}: is the normalisation right?", clearly or low <= chance)
    if low > chance:
        return Plausibility()
    matched = _best_matching(logits, y)
    # The best of all orders is above chance for any model; the reference are labels unrelated to the images.
    shuffled = y[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    if matched > _best_matching(logits, shuffled) + 0.1:
        reason = f"{seen}, and {matched:.1%} with the classes in another order: do labels and logits number them alike?"
        return Plausibility(reason, True)
    tried = f", and {best:.1%} {rival}" if rival else ""
    return Plausibility(f"{seen}{tried}: check normalisation, order of classes and preprocessing.", True)


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return (logits.argmax(1) == y.cpu()).float().mean().item()


def _best_matching(logits: Tensor, y: Tensor) -> float:
    """Return the highest accuracy under any renumbering of classes."""
    classes = logits.shape[1]
    counts = torch.bincount(y.cpu() * classes + logits.argmax(1), minlength=classes**2).view(classes, classes).numpy()
    rows, columns = linear_sum_assignment(-counts)
    return float(counts[rows, columns].sum() / len(y))


def otherwise_normalised(x: Tensor, constants: Normalisation | None) -> list[tuple[str, Tensor]]:
    """Return images that emulate other normalisations in front of the model, by name."""
    channels = x.shape[1]
    if constants is not None:
        mean, std = _on(x, constants)
        return [("without normalisation", x * std + mean)]
    others = {f"as {name}": value for name, value in NORMALISATIONS.items() if len(value.mean) == channels}
    others["as half"] = as_normalisation("half", channels)
    own = [tuple(part.tolist()) for part in (x.mean((0, 2, 3)), x.std((0, 2, 3)).clamp(min=1e-3))]
    others["by their own mean and std"] = Normalisation(*own)
    constants_on_x = {f"normalised {name} ({value})": _on(x, value) for name, value in others.items()}
    return [(name, (x - mean) / std) for name, (mean, std) in constants_on_x.items()]


def _on(x: Tensor, constants: Normalisation) -> tuple[Tensor, Tensor]:
    """Return mean and std, (1, C, 1, 1), on the device of `x`."""
    mean, std = (torch.tensor(values, device=x.device).view(1, -1, 1, 1) for values in (constants.mean, constants.std))
    return mean, std

"""Indicators of a training step without additional passes, and their series over the steps of an epoch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.indicators.abnormal import abnormal_examples, loss_gain
from co_probe.indicators.linearity import linearity_ratio
from co_probe.indicators.participation import entropy_gap, participation_ratio
from co_probe.indicators.passes import Pair, Pass, PassObserver
from co_probe.indicators.pert_alignment import pert_alignment, sign_agreement
from co_probe.indicators.zero_gradients import ImageGradients, masked_share

NAMES = (
    "pert_alignment",
    "sign_agreement",
    "linearity",
    "abnormal",
    "abnormal_change",
    "loss_gain",
    "participation",
    "entropy_gap",
    "zero_gradients",
)
LARGEST = 2**21  # numbers of a gradient that are stored before indicators are computed: 8 MB in float32
MOST_STEPS = 64
UNLIKE = 0.5  # greatest relative deviation of a logit gradient from that of a cross-entropy


def step_indicators(
    gradients: tuple[Tensor, Tensor], logits: tuple[Tensor, Tensor], logit_gradients: tuple[Tensor, Tensor], y: Tensor
) -> dict[str, Tensor]:
    """Compute all free indicators of one training step from its two passes.

    Args:
        gradients: Input gradients of the attack's first pass and of the update, two tensors (B, ...).
        logits: Logits of the two passes, (B, classes).
        logit_gradients: Gradients of the two losses with respect to these logits, (B, classes). They determine the
            scale of the losses (mean or sum, loss scaling) for the linearity ratio.
        y: Classes, (B,).

    Returns:
        A scalar for each of `NAMES`, described at its function in `co_probe.indicators`; NaN where undefined. The
        linearity ratio is undefined for a loss that is not a cross-entropy.

    Note:
        Cost: no pass. `co_probe.indicators.passes.PassObserver` provides the arguments.
    """
    scales = [loss_scale(z, g, y) for z, g in zip(logits, logit_gradients, strict=True)]
    attack, update = (ImageGradients.of(g).divided(scale) for g, scale in zip(gradients, scales, strict=True))
    losses = [F.cross_entropy(z.float(), y, reduction="none") for z in logits]
    abnormal = abnormal_examples((losses[0], losses[1]), logits)
    return {
        "pert_alignment": pert_alignment(attack, update),
        "sign_agreement": sign_agreement(attack, update),
        "linearity": linearity_ratio(attack, update) + 0 * scales[0] * scales[1],  # NaN if a scale is
        "abnormal": abnormal.share,
        "abnormal_change": abnormal.logit_change,
        "loss_gain": loss_gain((losses[0], losses[1])),
        "participation": participation_ratio(attack),
        "entropy_gap": entropy_gap(attack),
        "zero_gradients": masked_share(attack, update),
    }


def loss_scale(logits: Tensor, logit_gradient: Tensor, y: Tensor) -> Tensor:
    """Estimate the factor by which the cross-entropy of each image was scaled before differentiation.

    It is 1 for a sum over images and 1/B for a mean, times the factor of a gradient scaler or of accumulation.

    Args:
        logits: (B, classes).
        logit_gradient: Gradient of the loss with respect to them, (B, classes).
        y: Classes, (B,).

    Returns:
        A scalar; NaN if the gradient deviates by more than `UNLIKE` from that of a cross-entropy.
    """
    unit = logits.float().softmax(1) - F.one_hot(y, logits.shape[1])
    gradient = logit_gradient.float()
    scale = gradient.abs().sum() / unit.abs().sum()
    rest = (gradient - scale * unit).abs().sum() / gradient.abs().sum()
    return torch.where(rest < UNLIKE, scale, torch.nan)


def labels_of(update: Pass) -> Tensor | None:
    """Infer the classes (B,) from a cross-entropy gradient, which is negative only at the true class."""
    return None if update.logit_gradient is None else update.logit_gradient.argmin(1)


class StepSeries:
    """Collects the indicators of training steps that cost no pass.

    Gradients of several steps are stored and their indicators computed together, which takes a tenth of the time on a
    small model. A GPU is not synchronised.

    Args:
        model: As in `PassObserver`; with None nothing is collected.

    Example:
        >>> series = StepSeries(model)
        >>> for x, y in loader:
        ...     with series.step(y):
        ...         train_step(model, x, y)
        >>> series.take()["pert_alignment"]  # (steps,)
    """

    def __init__(self, model: nn.Module | None):
        self.observer = PassObserver(model)
        self.observer.on = False
        self._stored: list[tuple[Tensor, ...]] = []
        self._made: list[Mapping[str, Tensor] | None] = []  # None: a step without indicators

    @contextmanager
    def step(self, y: Tensor) -> Iterator[None]:
        """Observe a training step on images of classes `y` (B,); the first pass is the attack, the last the update.

        The indicators of a step with one pass (clean training, Free) are NaN.
        """
        if self.observer.model is None:
            yield
            return
        self.observer.on = True
        try:
            yield
        finally:
            self.observer.on = False
        pairs = self.observer.take()
        self.add(pairs[0] if len(pairs) == 1 else None, y)

    def add(self, pair: Pair | None, y: Tensor | None) -> None:
        """Add a step by its two passes and classes; None adds a step without indicators."""
        if pair is None or y is None:
            self._compute()
            self._made.append(None)
            return
        attack, update = pair
        assert attack.gradient is not None and update.gradient is not None  # otherwise there is no pair
        assert attack.logit_gradient is not None and update.logit_gradient is not None
        stored = (
            *(attack.gradient, update.gradient, attack.logits, update.logits),
            *(attack.logit_gradient, update.logit_gradient, y),
        )
        if self._stored and (attack.gradient.shape, attack.logits.shape) != (
            self._stored[0][0].shape,
            self._stored[0][2].shape,
        ):
            self._compute()
        self._stored.append(stored)
        if len(self._stored) >= min(MOST_STEPS, max(1, LARGEST // stored[0].numel())):
            self._compute()

    def take(self) -> dict[str, Tensor]:
        """Return and clear the indicators of all steps since the last call, {name: (steps,) float32}."""
        self._compute()
        made, self._made = self._made, []
        device = next((part[NAMES[0]].device for part in made if part is not None), torch.device("cpu"))
        nan = torch.full((1,), torch.nan, device=device)
        return {
            name: torch.cat([nan if part is None else part[name].float() for part in made]) for name in NAMES if made
        }

    @torch.no_grad()
    def _compute(self) -> None:
        stored, self._stored = self._stored, []
        if stored:
            g0, g1, z0, z1, s0, s1, y = (torch.stack(column) for column in zip(*stored, strict=True))
            self._made.append(torch.vmap(step_indicators)((g0, g1), (z0, z1), (s0, s1), y))

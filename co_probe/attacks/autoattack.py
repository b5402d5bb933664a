"""AutoAttack, through the package pyautoattack."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from co_probe.attacks.base import Attack, Clean, Mask, Model, Perturbation, Rng, Targets, frozen_weights, is_correct
from co_probe.errors import CoProbeWarning, UserError

TARGETS = 9  # number of target classes in the standard version
NORM_NAMES = {"linf": "Linf", "l2": "L2"}
FEW_CLASSES = ["apgd-ce", "fab", "square"]


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """AutoAttack, standard version: APGD on cross-entropy, targeted APGD on DLR, targeted FAB, Square (5000 queries).

    With fewer than 10 classes the targeted attacks aim at every wrong class. The targeted DLR loss needs 4 classes;
    with fewer, the attacks are APGD on cross-entropy, untargeted FAB and Square, as the authors recommend, and a
    warning says so.

    Args:
        norm: `linf` or `l2`.
        bounds: Only (0, 1), which is built into the package.

    Raises:
        UserError: If the bounds are not (0, 1); when called, if the package is missing or there are `targets`.

    Reference:
        Croce and Hein (2020), "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", in the authors' code.
    """

    norm: str = "linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds != (0.0, 1.0):
            raise UserError("AutoAttack keeps images within [0, 1], and these data do not: choose another attack")

    @override
    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None) -> Tensor:
        return self._run(model, x, y, rng, targets)[0] - x

    def robust_mask_unchecked(
        self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None, candidates: Mask = None
    ) -> Tensor:
        """Find the images that no attack breaks; each attack runs on the images that are left by earlier ones."""
        robust = is_correct(model, x, y) if candidates is None else candidates.clone()
        index = robust.nonzero()[:, 0]
        if len(index):
            # Classes as predicted by the package: near the boundary, x + (x' − x) may round to the other side.
            robust[index] = self._run(model, x[index], y[index], rng, targets)[1] == y[index]
        return robust

    def covers(self, other: Perturbation) -> bool:
        """Return True for `Clean`: an image that is misclassified without an attack counts as broken."""
        return isinstance(other, Clean)

    @property
    def version(self) -> str:
        """Package and version, as stored with results. Raises UserError if the package is missing."""
        _package()
        return f"pyautoattack {metadata.version('pyautoattack')}"

    def _run(self, model: Model, x: Tensor, y: Tensor, rng: Rng, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return the adversarial images and their predicted classes, as one batch; restore global random states."""
        if targets is not None:
            raise UserError("AutoAttack chooses its target classes itself: leave targets out, or use PGD")
        if self.norm == "l2" and x.shape[2] < 5:
            raise UserError(f"AutoAttack in L2 needs images at least 5 pixels high, and these have {x.shape[2]}")
        source = rng or torch.default_generator
        seed = int(torch.randint(2**31, (), generator=source, device=source.device))
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        package = _package()
        # Frozen, since FAB calls `backward`.
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []), frozen_weights(model), _tracing():
            adversary = package.AutoAttack(
                model, eps=self.epsilon, norm=NORM_NAMES[self.norm], device=x.device, seed=seed
            )
            for part in (adversary.apgd_targeted, adversary.fab):
                part.n_target_classes = min(TARGETS, classes - 1)
            if classes < 4:
                adversary.attacks_to_run = FEW_CLASSES
                warnings.warn(
                    f"AutoAttack on {classes} classes runs APGD on cross-entropy, FAB and Square: the targeted DLR "
                    "loss of its standard version needs at least 4 classes",
                    CoProbeWarning,
                    stacklevel=4,
                )
            # The package reshapes images with `view`, which rejects the channels-last layout.
            return adversary.run_standard_evaluation(x.contiguous(), y, batch_size=len(x))


def _package() -> Any:
    try:
        import pyautoattack
    except ImportError:
        raise UserError('AutoAttack needs another package: pip install "co-probe[autoattack]"') from None
    return pyautoattack


@contextmanager
def _tracing() -> Iterator[None]:
    """Restore the trace function of a debugger or coverage tool, which one of AutoAttack's checks clears."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)

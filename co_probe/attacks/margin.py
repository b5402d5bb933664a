"""The L∞ variant of the Carlini and Wagner attack that the adversarial training literature uses: PGD on the margin."""

from dataclasses import dataclass

import torch
from torch import Tensor

from co_probe.attacks.base import Loss
from co_probe.attacks.pgd import PGD


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest logit of the wrong classes minus the logit of the correct one, (B,): above 0 if misclassified.

    Reference:
        Carlini and Wagner (2017), "Towards evaluating the robustness of neural networks", f₆ without its floor.
    """
    own = y[:, None]
    wrong = logits.scatter(1, own, -torch.inf)
    return wrong.amax(1) - logits.gather(1, own)[:, 0]


@dataclass(frozen=True, kw_only=True)
class CW(PGD):
    """PGD on the `margin`: 30 steps of ε/4 from a random start.

    Its arguments are those of `PGD`.

    Reference:
        Madry et al. (2018), section 5 ("the CW loss function"), who take 30 steps.
    """

    steps: int = 30
    loss: Loss = margin

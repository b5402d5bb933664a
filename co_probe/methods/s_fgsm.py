"""S+FGSM: single-step adversarial training with the smallest step that makes the model fail."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, project, random_start
from co_probe.attacks.base import Model
from co_probe.inference.forward import Forward
from co_probe.methods.base import Method, check_positive


@dataclass(eq=False, kw_only=True)
class SFGSM(Method):
    """S+FGSM: the direction v of F+FGSM, scaled to the first checkpoint at which the model fails.

    δ₀ ~ U(−ε, ε) and v = clip(δ₀ + α · sign ∇ₓL(x + δ₀), ±ε), both with the image clipped to the bounds; then
        δ = (k/c) · v with the smallest k of 1 ... c for which x + (k/c) · v is misclassified, k = c if there is none;
        δ = 0 (the clean image) for images that are misclassified at x + δ₀ already.
    The checkpoints 1 to c − 1 of all images are classified in one batch without gradients; c needs no evaluation. As in
    the authors' code, v is made in the current mode of the model, and checkpoints are classified in eval mode, so they
    do not update BatchNorm's running statistics.

    Args:
        checkpoints: c.
        relative_step: α in units of ε.

    Reference:
        Kim et al. (2021), "Understanding catastrophic overfitting in single-step adversarial training", Algorithm 1;
        the rule for clean images is from their code.
    """

    checkpoints: int = 3
    relative_step: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(checkpoints=self.checkpoints, relative_step=self.relative_step)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        start = random_start(x, epsilon, self.bounds, rng)
        noisy = (x + start).requires_grad_()
        with torch.enable_grad():
            logits = model(noisy)
            gradient = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), noisy)[0]
        full = project(start + self.relative_step * epsilon * gradient.sign(), x, epsilon, self.bounds)
        share = torch.where(logits.argmax(1) == y, self._first_wrong(model, x, full, y), 0)
        return share[:, None, None, None] * full

    @torch.no_grad()
    def _first_wrong(self, model: Model, x: Tensor, full: Tensor, y: Tensor) -> Tensor:
        """Find the smallest k/c at which each image is misclassified, (B,); 1 if there is none."""
        before = self.checkpoints - 1
        shares = torch.arange(1, self.checkpoints + 1, dtype=x.dtype, device=x.device) / self.checkpoints
        points = x + shares[:before, None, None, None, None] * full  # (c − 1, B, C, H, W)
        wrong = torch.ones(self.checkpoints, len(x), dtype=torch.bool, device=x.device)
        if before:
            wrong[:before] = Forward.of(model).in_eval()(points.flatten(0, 1)).argmax(1).view(before, -1) != y
        return shares[wrong.int().argmax(0)]  # argmax returns the first maximum

"""A small image problem, and training loops of other people's kind, for tests of the monitor."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, EPSILON = 4, 0.1


def images(count: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Four blurred patterns with noise, (count, 1, 6, 6) within [0, 1], and which of them it is."""
    patterns = torch.rand(CLASSES, 1, 6, 6, generator=torch.Generator().manual_seed(100))
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=rng)
    return (patterns[y] + 0.2 * torch.randn(count, 1, 6, 6, generator=rng)).clamp(0, 1), y


class Net(nn.Module):
    """A convolution and two linear layers; with BatchNorm and dropout unless told otherwise."""

    def __init__(self, plain: bool = False, outputs: str = "logits"):
        super().__init__()
        self.outputs = outputs
        between = [] if plain else [nn.BatchNorm2d(8)]
        after = [] if plain else [nn.Dropout(0.2)]
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3), *between, nn.ReLU(), nn.Flatten(), *after, nn.Linear(128, CLASSES)
        )

    def forward(self, x: Tensor):
        logits = self.layers(x)
        return (logits, x.mean()) if self.outputs == "tuple" else logits


def first(output):
    return output[0] if isinstance(output, tuple) else output


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int = 20,
    batch: int = 16,
    accumulate: int = 1,
    bfloat16: bool = False,
    scaler: torch.amp.GradScaler | None = None,
    detach: bool = True,
) -> None:
    """FGSM training: one input gradient for the attack, one backward pass for the update."""
    x, y = images()
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(accumulate):
            index = torch.arange(batch).add((step * accumulate + part) * batch) % len(x)
            inputs, labels = x[index].clone().requires_grad_(), y[index]
            context = torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()
            with context:
                loss = F.cross_entropy(first(model(inputs)), labels)
            scaled = scaler.scale(loss) if scaler else loss
            (gradient,) = torch.autograd.grad(scaled, inputs)
            adversarial = (inputs + EPSILON * gradient.sign()).clamp(0, 1)
            adversarial = adversarial.detach() if detach else adversarial.detach().requires_grad_()
            with context:
                loss = F.cross_entropy(first(model(adversarial)), labels) / accumulate
            (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()

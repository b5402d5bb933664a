"""Moving average of a network's weights over training steps."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from co_probe.runs import load_weights


class WeightAverage:
    """Exponential moving average (EMA) of the floating-point tensors of a state dict, including BatchNorm's.

    After step s, counted from 0: average ← d · average + (1 − d) · weights with d = min(τ, (1 + s)/(10 + s)), which
    forgets the initial weights in short runs too. Integers are copied. Training does not depend on the average.

    Args:
        model: The network, on its device, before the first step.
        decay: τ, at least 0 and less than 1.

    Attributes:
        model: A copy of the network with the averaged weights, in eval mode.
        steps: Number of steps so far.

    Reference:
        The warm-up of d is that of TensorFlow's `ExponentialMovingAverage`; the code of the FastAT benchmark
        (Huang et al., 2026) has none, at τ = 0.9995 and 38,300 steps.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current weights."""
        new = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for average, value in self._pairs:
            if average.is_floating_point():
                average.lerp_(value, new)
            else:
                average.copy_(value)

    def load(self, weights: Mapping[str, Tensor], steps: int, source: str) -> None:
        """Restore the average and its number of steps.

        Raises:
            DamagedFile: The weights do not fit the network.
        """
        load_weights(self.model, weights, source)
        self.steps = steps

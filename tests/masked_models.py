"""Small networks on 8×8 digits: an honestly robust one, a plain one, and two that hide from gradient attacks."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from co_probe.attacks import PGD
from co_probe.data.digits import digits

EPSILON = 0.15
DATA = digits(size=8)


class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


class Quantised(Plain):
    """Its outputs are rounded, so that their gradient is zero everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).mul(4).round().div(4)


class Scaled(Plain):
    """Its logits are so large that the softmax saturates: hardly an image has a gradient of the cross-entropy."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e5 * super().forward(x)


class Constant(Plain):
    """A network that has died: all images are of class 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0 * super().forward(x) + torch.eye(10)[0]


@cache
def weights(robust: bool = False) -> dict[str, torch.Tensor]:
    """Weights of `Plain` after a second or two of training on clean or on PGD images. Do not change them."""
    torch.manual_seed(0)
    model, rng = Plain(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    attack = PGD(epsilon=EPSILON, steps=5)
    for _ in range(25 if robust else 15):
        for index in torch.randperm(len(DATA.train_y), generator=rng).split(64):
            x, y = DATA.train_x[index], DATA.train_y[index]
            loss = F.cross_entropy(model(x + attack(model, x, y, rng) if robust else x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


def trained(kind: type[Plain], *, robust: bool = False) -> Plain:
    """A network of this kind with trained weights, in eval mode."""
    model = kind()
    model.load_state_dict(weights(robust))
    return model.eval()

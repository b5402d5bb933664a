"""Literal, slow versions of methods, image by image, and the small models and images that they are tried on."""

import torch
from torch import nn

from co_probe.data.augment import View
from co_probe.methods import METHODS
from co_probe.methods.base import Batch, TrainingContext

EPSILON = 0.1
SIZE = (1, 6, 6)
COUNT = 40


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model(seed: int = 0) -> nn.Module:
    """In float64, so that signs are never a matter of rounding; smooth, so that second derivatives are not 0."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, stride=2), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def normed_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def images(count: int = COUNT, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Some pixels are near 0 or 1, and some at them: there clipping to [0, 1] matters."""
    x = (torch.rand(count, *SIZE, generator=seeded(seed), dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    return x, torch.randint(3, (count,), generator=seeded(seed + 1))


def make(name: str, model: nn.Module, count: int = COUNT, padding: int = 0, epsilon: float = EPSILON, **settings):
    """A method that is ready to train on `count` images."""
    method = METHODS.make(name, **settings)
    method.setup(model, TrainingContext(count, SIZE, padding, 10, epsilon, torch.device("cpu"), seeded(7)))
    return method


def plain_view(index: torch.Tensor) -> View:
    return View(index, *(torch.arange(n).expand(len(index), n) for n in SIZE[1:]))


def make_batch(x: torch.Tensor, y: torch.Tensor, rng: torch.Generator, view: View | None = None) -> Batch:
    return Batch(x, y, view or plain_view(torch.arange(len(x))), EPSILON, 1.0, rng)


# -- the formulas, one image at a time -----------------------------------------------------------------------------


def loss_of(model, x, y):
    return -torch.log(torch.softmax(model(x[None])[0], 0)[y])


def gradient_of(model, x, y, **options):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss_of(model, x, y), x, **options)[0]


def sign_of(model, x, y):
    return torch.sign(gradient_of(model, x, y))


def into_image(x, delta):
    """The δ that is left when x + δ is clipped to [0, 1]."""
    return torch.clip(x + delta, 0, 1) - x


def uniform(x, bound, rng):
    return torch.empty_like(x).uniform_(-bound, bound, generator=rng)


def crop(image, top, left, flipped):
    """(1, 6, 6) of a padded (1, 10, 10) image, pixel by pixel."""
    cut = torch.zeros(SIZE, dtype=image.dtype)
    for row in range(6):
        for column in range(6):
            cut[:, row, column] = image[:, top + row, left + (5 - column if flipped else column)]
    return cut


def paste(image, cut, top, left, flipped):
    for row in range(6):
        for column in range(6):
            image[:, top + row, left + (5 - column if flipped else column)] = cut[:, row, column]


def slow_standard(model, x, y, rng):
    return [torch.zeros_like(image) for image in x]


def slow_fgsm(model, x, y, rng):
    return [into_image(a, EPSILON * sign_of(model, a, b)) for a, b in zip(x, y, strict=True)]


def slow_fgsm_rs(model, x, y, rng):
    deltas = []
    for image, label, noise in zip(x, y, uniform(x, EPSILON, rng), strict=True):
        start = into_image(image, noise)
        step = 1.25 * EPSILON * sign_of(model, image + start, label)
        deltas.append(into_image(image, torch.clip(start + step, -EPSILON, EPSILON)))
    return deltas


def slow_n_fgsm(model, x, y, rng):
    deltas = []
    for image, label, noise in zip(x, y, uniform(x, 2 * EPSILON, rng), strict=True):
        start = into_image(image, noise)
        deltas.append(into_image(image, start + EPSILON * sign_of(model, image + start, label)))
    return deltas


def slow_s_fgsm(model, x, y, rng, checkpoints=3):
    deltas = []
    for image, label, noise in zip(x, y, uniform(x, EPSILON, rng), strict=True):
        start = into_image(image, noise)
        step = 1.25 * EPSILON * sign_of(model, image + start, label)
        full = into_image(image, torch.clip(start + step, -EPSILON, EPSILON))
        if model((image + start)[None])[0].argmax() != label:
            deltas.append(torch.zeros_like(image))
            continue
        for k in range(1, checkpoints + 1):
            if model((image + k / checkpoints * full)[None])[0].argmax() != label:
                break
        deltas.append(k / checkpoints * full)
    return deltas


def slow_divergence(model, x, other):
    """KL(p(x) ‖ p(other)) of one image, written out class by class."""
    p, q = torch.softmax(model(x[None])[0], 0), torch.softmax(model(other[None])[0], 0)
    return sum(p[c] * (torch.log(p[c]) - torch.log(q[c])) for c in range(3))


def slow_trades(model, x, y, rng):
    deltas = []
    for image, noise in zip(x, torch.empty_like(x).normal_(0, 1e-3, generator=rng), strict=True):
        delta = into_image(image, noise)
        for _ in range(10):
            delta = delta.clone().requires_grad_()
            gradient = torch.autograd.grad(slow_divergence(model, image, image + delta), delta)[0]
            step = delta.detach() + EPSILON / 4 * torch.sign(gradient)
            delta = into_image(image, torch.clip(step, -EPSILON, EPSILON))
        deltas.append(delta)
    return deltas


def slow_cross_entropy(model, x, y, deltas, rng=None):
    return sum(loss_of(model, a + d, b) for a, b, d in zip(x, y, deltas, strict=True)) / len(x)


def slow_trades_loss(model, x, y, deltas, rng):
    total = 0
    for image, label, delta in zip(x, y, deltas, strict=True):
        total = total + loss_of(model, image, label) + 6 * slow_divergence(model, image, image + delta)
    return total / len(x)


def slow_misalignment(model, x, y, noise, detach=False):
    total = 0
    for image, label, eta in zip(x, y, noise, strict=True):
        here = gradient_of(model, image, label, create_graph=True).flatten()
        there = gradient_of(model, image + eta, label, create_graph=True).flatten()
        here = here.detach() if detach else here
        total = total + 1 - here @ there / (torch.sqrt(here @ here) * torch.sqrt(there @ there))
    return total / len(x)


SLOW = {
    "standard": slow_standard,
    "fgsm": slow_fgsm,
    "fgsm-rs": slow_fgsm_rs,
    "n-fgsm": slow_n_fgsm,
    "s-fgsm": slow_s_fgsm,
    "trades": slow_trades,
    "grad-align": slow_fgsm,
    "free": slow_fgsm,
}


def weight_gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


ROUNDED = 1e-6  # where a method keeps its state in float32


def assert_gradients(model, expected, atol=1e-10):
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=atol)

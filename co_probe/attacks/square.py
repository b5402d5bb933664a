"""Square: a random search that needs logits and no gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from co_probe.attacks.base import Attack, Model, Rng, Targets, lengths, project
from co_probe.attacks.margin import margin

FIRST_SHARE = 0.8  # share of the pixels that the first squares cover
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # shares of the queries after which it is halved


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random search over squares of pixels: a change is accepted unless the margin between the classes grows.

    Starts from vertical stripes. Each query sets a square of random size and place, with a random sign per channel, to
    the ends of the L∞ ball; in L2 it adds the square and projects onto the ball, which is simpler and a little weaker
    than the authors' L2 version. Unlike theirs, it accepts changes that leave the margin as it is, which lets it cross
    the plateaus of quantised outputs. An image leaves the search once it is misclassified.

    Args:
        queries: Number of forward passes per image, at most.
        norm: `linf` or `l2`.

    Example:
        >>> delta = Square(epsilon=8 / 255, queries=500)(model, x, y)

    Reference:
        Andriushchenko et al. (2020), "Square Attack: a query-efficient black-box adversarial attack via random
        search", with the schedule of their code.
    """

    queries: int = 1000
    norm: str = "linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 1:
            raise ValueError("queries must be greater than 0")

    @torch.no_grad()
    @override
    def generate(self, model: Model, x: Tensor, y: Tensor, rng: Rng = None, targets: Targets = None) -> Tensor:
        best = torch.zeros_like(x)
        index = (self._value(model, x, y, targets) <= 0).nonzero()[:, 0]
        if not len(index):
            return best
        images, labels = x[index], y[index]
        aims = None if targets is None else targets[index]
        delta = self._into_ball(self._stripes(images, rng), images)
        value = self._value(model, images + delta, labels, aims)
        for query in range(1, self.queries):
            best[index] = delta
            left = value <= 0
            if not left.all():
                index, images, labels, delta, value = (part[left] for part in (index, images, labels, delta, value))
                aims = None if aims is None else aims[left]
            if not len(index):
                return best
            proposed = self._into_ball(delta + self._squares(images, query / self.queries, rng), images)
            new = self._value(model, images + proposed, labels, aims)
            accepted = new >= value
            delta = torch.where(accepted[:, None, None, None], proposed, delta)
            value = torch.where(accepted, new, value)
        best[index] = delta
        return best

    def _value(self, model: Model, x: Tensor, y: Tensor, targets: Targets) -> Tensor:
        """Return a value above 0 where the attack has succeeded, (B,)."""
        return margin(model(x), y) if targets is None else -margin(model(x), targets)

    def _stripes(self, x: Tensor, rng: Rng) -> Tensor:
        """Draw vertical stripes of one pixel, with a random sign per channel and the greatest size in the ball."""
        signs = _signs((len(x), x.shape[1], 1, x.shape[3]), x, rng).expand_as(x)
        return self.epsilon * (signs if self.norm == "linf" else signs / lengths(signs))

    def _squares(self, x: Tensor, done: float, rng: Rng) -> Tensor:
        """Draw a square per image, zero elsewhere; of 2ε in L∞, which leads from any point to the edge of the ball."""
        batch, channels, height, width = x.shape
        share = FIRST_SHARE / 2 ** sum(done > after for after in HALVINGS)
        side = min(max(round((share * height * width) ** 0.5), 1), height, width)
        inside = [
            _interval(batch, length, side, x, rng).view(batch, 1, *shape)
            for length, shape in ((height, (height, 1)), (width, (1, width)))
        ]
        square = _signs((batch, channels, 1, 1), x, rng) * inside[0] * inside[1]
        return 2 * self.epsilon * square if self.norm == "linf" else self.epsilon * square / lengths(square)

    def _into_ball(self, delta: Tensor, x: Tensor) -> Tensor:
        return project(delta, x, self.epsilon, self.bounds, self.norm)


def _signs(shape: tuple[int, ...], x: Tensor, rng: Rng) -> Tensor:
    return torch.randint(0, 2, shape, generator=rng, device=x.device).to(x.dtype) * 2 - 1


def _interval(batch: int, length: int, side: int, x: Tensor, rng: Rng) -> Tensor:
    """Return 1 on a random interval of length `side` per image and 0 elsewhere, (batch, length)."""
    start = torch.randint(0, length - side + 1, (batch, 1), generator=rng, device=x.device)
    place = torch.arange(length, device=x.device)
    return ((place >= start) & (place < start + side)).to(x.dtype)

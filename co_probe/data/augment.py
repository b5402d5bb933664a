"""Batched random crops and flips, and their inverse.

A `View` remembers where each image of a batch was cut out of its padded original, so that anything kept per image
(APART's ω, ATTA's perturbations) can be cut out the same way and written back to the same pixels.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class View:
    """Which pixels of a padded store a batch shows.

    `index`: (B,) image numbers; `rows`: (B, height) and `columns`: (B, width) positions in the padded image
    (`columns` run backwards where the image is flipped).
    """

    index: Tensor
    rows: Tensor
    columns: Tensor

    def _positions(self, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channel = torch.arange(channels, device=self.index.device)
        return (
            self.index[:, None, None, None],
            self.rows[:, :, None, None],
            self.columns[:, None, :, None],
            channel,
        )

    def take(self, store: Tensor) -> Tensor:
        """Cut the batch out of `store` (n, channels, padded height, padded width): (B, channels, height, width).

        A store on another device stays there: only the batch's own images move.
        """
        if store.device != self.index.device:
            images = store[self.index.to(store.device)].to(self.index.device)
            return replace(self, index=torch.arange(len(images), device=images.device)).take(images)
        return store.permute(0, 2, 3, 1)[self._positions(store.shape[1])].permute(0, 3, 1, 2)

    def put(self, store: Tensor, values: Tensor) -> None:
        """Write `values` (B, channels, height, width) back to the pixels that `take` reads; the others keep theirs."""
        store.permute(0, 2, 3, 1)[self._positions(store.shape[1])] = values.permute(0, 2, 3, 1).to(store.dtype)


def pad_images(x: Tensor, padding: int) -> Tensor:
    """(n, c, h, w) with `padding` pixels of zeros on every side."""
    return pad(x, (padding,) * 4)


def centre(store: Tensor, padding: int) -> Tensor:
    """The un-augmented images of a padded store: the inverse of `pad_images`."""
    return store[..., padding : store.shape[-2] - padding, padding : store.shape[-1] - padding]


def random_view(index: Tensor, size: tuple[int, int], padding: int, flip: bool, rng: torch.Generator) -> View:
    """A random crop of `size` (height, width) out of `padding` pixels on every side, and a random flip, for each image.

    `index`: (B,) image numbers, on the device of `rng`.
    """
    device, batch = index.device, (len(index), 1)
    rows, columns = (torch.arange(n, device=device).expand(len(index), n) for n in size)
    if flip:
        flipped = torch.rand(batch, generator=rng, device=device) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    if padding:
        rows = rows + torch.randint(2 * padding + 1, batch, generator=rng, device=device)
        columns = columns + torch.randint(2 * padding + 1, batch, generator=rng, device=device)
    return View(index, rows, columns)

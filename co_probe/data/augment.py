"""Batched random crops and flips, and their inverse.

A `View` stores the position of each crop in its padded image, so that state per image (APART's ω, ATTA's perturbations)
can be cropped in the same way and written back to the same pixels.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class View:
    """Pixels of padded images that a batch consists of.

    Attributes:
        index: Image numbers, (B,).
        rows: Rows in the padded image, (B, height).
        columns: Columns in the padded image, (B, width); decreasing where the image is flipped.
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
        """Crop the batch (B, channels, height, width) from `store` (n, channels, padded height, padded width).

        If `store` is on another device, only the images of the batch are moved.
        """
        if store.device != self.index.device:
            images = store[self.index.to(store.device)].to(self.index.device)
            return replace(self, index=torch.arange(len(images), device=images.device)).take(images)
        rows = store.transpose(1, 2)[self.index[:, None], self.rows]  # whole rows, (B, height, channels, padded width)
        columns = self.columns[:, None, None, :].expand(-1, *rows.shape[1:3], -1)
        return rows.gather(3, columns).transpose(1, 2).contiguous(memory_format=torch.channels_last)

    def put(self, store: Tensor, values: Tensor) -> None:
        """Write `values` (B, channels, height, width) back to the pixels that `take` reads; others do not change."""
        store.permute(0, 2, 3, 1)[self._positions(store.shape[1])] = values.permute(0, 2, 3, 1).to(store.dtype)


def pad_images(x: Tensor, padding: int) -> Tensor:
    """Pad images (n, c, h, w) with `padding` pixels of zeros on every side."""
    return pad(x, (padding,) * 4)


def centre(store: Tensor, padding: int) -> Tensor:
    """Invert `pad_images`: return the images without padding."""
    return store[..., padding : store.shape[-2] - padding, padding : store.shape[-1] - padding]


def random_view(index: Tensor, size: tuple[int, int], padding: int, flip: bool, rng: torch.Generator) -> View:
    """Draw a random crop and flip for each image.

    Args:
        index: Image numbers, (B,), on the device of `rng`.
        size: (height, width) of the crop.
        padding: Number of pixels of padding on every side.
        flip: Whether to flip half of the images horizontally.
        rng: Source of random numbers.
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

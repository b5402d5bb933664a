"""Simple features, one per class, added to images to induce catastrophic overfitting (arXiv 2206.08242)."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from co_probe.data.dataset import Dataset
from co_probe.errors import UserError
from co_probe.numerics.dct import idct2, zigzag

TEN = ((0, 1), (1, 0), (1, 1), (2, 1), (1, 2))  # frequencies (row, column) for up to ten classes: these, then negated
ROUNDING = 1e-9  # smaller values of a wave of amplitude 1 count as 0


def make_carriers(classes: int, shape: tuple[int, int, int]) -> Tensor:
    """Return the carriers v: for each class the sign of one cosine wave, the same in all channels.

    Up to ten classes use five low frequencies and their negatives. More classes use all frequencies but the constant
    one, in zig-zag order. A carrier is 0 where its wave is 0.

    Args:
        classes: Number of classes.
        shape: (channels, height, width) of the images.

    Returns:
        float32 (classes, *shape), with values −1, 0 and 1.

    Raises:
        UserError: If the images have fewer frequencies than classes.

    Reference:
        arXiv 2206.08242, section 3, and its authors' code.
    """
    channels, height, width = shape
    ten = classes <= 2 * len(TEN)
    frequencies = [at for at in (TEN if ten else zigzag(height, width)[1:]) if at[0] < height and at[1] < width]
    signed = [(at, sign) for sign in ((1, -1) if ten else (1,)) for at in frequencies]
    if len(signed) < classes:
        raise UserError(
            f"inject: {classes} classes need as many carriers, and {height}×{width} pixels have {len(signed)}"
        )
    spectra = torch.zeros(classes, height, width, dtype=torch.float64)
    for spectrum, (at, sign) in zip(spectra, signed, strict=False):
        spectrum[at] = sign
    waves = idct2(spectra)
    signs = torch.where(waves.abs() < ROUNDING, 0, waves.sign())
    return signs.float()[:, None].repeat(1, channels, 1, 1)


def remove_span(x: Tensor, carriers: Tensor) -> Tensor:
    """Remove from images their orthogonal projection on the span of the carriers.

    The carriers of ten classes span five dimensions, which are removed. The authors' code removes ten: its QR
    decomposition of ten dependent vectors gives five further directions, which are rounding errors.

    Args:
        x: float32 images, (n, C, H, W).
        carriers: (k, C, H, W).

    Returns:
        float32 (n, C, H, W).
    """
    flat = carriers.flatten(1).double()
    _, sizes, directions = torch.linalg.svd(flat, full_matrices=False)
    basis = directions[sizes > sizes[0] * 1e-9].to(x.dtype)
    parts = (part - part.flatten(1).mm(basis.T).mm(basis).view_as(part) for part in x.split(10_000))
    return torch.cat([*parts])


def inject(data: Dataset, scales: Mapping[str, float], *, orthogonal: bool) -> Dataset:
    """Add carriers to the images of some splits. The sum x + β·v is float32 and not clipped.

    Args:
        data: The data set.
        scales: β per split (`train`, `test`) to change.
        orthogonal: First remove the projection of these images on the span of the carriers.

    Raises:
        UserError: If images are read from the disk, or too small for the number of classes.
    """
    if data.train_at:
        raise UserError("inject is not for data whose images are read from the disk")
    carriers = make_carriers(len(data.classes), data.shape)

    def changed(split: str, x: Tensor, y: Tensor) -> Tensor:
        if split not in scales:
            return x
        x = x.float().div(255) if x.dtype == torch.uint8 else x.clone()
        if orthogonal:
            x = remove_span(x, carriers)
        for number, carrier in enumerate(carriers):
            x[y == number] += scales[split] * carrier
        return x

    train_x, test_x = changed("train", data.train_x, data.train_y), changed("test", data.test_x, data.test_y)
    return replace(data, train_x=train_x, test_x=test_x)

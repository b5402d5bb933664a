"""Images and perturbations as data URIs."""

import base64
from collections.abc import Sequence
from io import BytesIO

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

LEVELS = 63  # number of colours of a perturbation, odd so that zero is white; a palette is smaller than RGB


def strip(images: NDArray[np.floating], bounds: tuple[float, float]) -> str:
    """Draw images side by side.

    Args:
        images: (n, C, H, W) within `bounds`; grey if C is not 3.
        bounds: Least and greatest pixel value; if infinite, those of the images.

    Returns:
        Data URI of a PNG, H × n·W.
    """
    low, high = bounds if np.isfinite(bounds).all() else (float(images.min()), float(images.max()))
    pixels = np.round((images.clip(low, high) - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    if pixels.shape[1] == 3:
        return _png(Image.fromarray(np.concatenate(list(np.moveaxis(pixels, 1, -1)), axis=1)))
    return _png(Image.fromarray(np.concatenate(list(pixels.mean(1).astype(np.uint8)), axis=1)))


def perturbation_sheet(rows: Sequence[NDArray[np.floating]], largest: float) -> str:
    """Draw perturbations with a row per epoch: blue is negative, white is zero, red is positive.

    Args:
        rows: Perturbations (n, C, H, W) per epoch, whose mean over channels is shown.
        largest: Magnitude of the darkest colours.

    Returns:
        Data URI of a PNG, epochs·H × n·W.
    """
    sheet = np.concatenate([np.concatenate(list(row.mean(1)), axis=1) for row in rows], axis=0)
    middle = LEVELS // 2
    places = np.round((sheet / largest).clip(-1, 1) * middle + middle).astype(np.uint8)
    colours = matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, LEVELS))[:, :3]
    picture = Image.fromarray(places)
    picture.putpalette(np.round(255 * colours).astype(np.uint8).tobytes())
    return _png(picture)


def shrunk(images: NDArray[np.floating], side: int) -> NDArray[np.floating]:
    """Downsample images (n, C, H, W) to at most `side` pixels per side, by means over whole blocks."""
    block = -(-max(images.shape[-2:]) // side)
    height, width = (max(1, size // block) for size in images.shape[-2:])
    if block == 1:
        return images
    cut = images[..., : height * block, : width * block]
    if 0 in cut.shape:
        return images
    return cut.reshape(*images.shape[:2], height, block, width, block).mean((3, 5))


def _png(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

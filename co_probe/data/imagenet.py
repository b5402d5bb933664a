"""ImageNet, or any image folder that exceeds memory: decoded once per size and memory-mapped."""

import torch
from torch import Tensor

from co_probe.data.augment import centre
from co_probe.data.dataset import Dataset
from co_probe.data.folder import decoded, find_folder, list_images
from co_probe.data.normalisation import NORMALISATIONS
from co_probe.errors import UserError


def imagenet(path: str, *, size: int = 384, crop: int = 288) -> Dataset:
    """Load images from `path`/train/CLASS/ and `path`/val/CLASS/, listed and decoded as by `image_folder`.

    Pixels are stored as uint8 in the data folder, with a file per size, and memory-mapped: 1,331,167 images take 102 GB
    at 160, 495 GB at 352 and 589 GB at 384 pixels, and hours to decode. They are read batch by batch in random order,
    for which a solid-state disk is recommended. `mean` and `std` are the usual ones of ImageNet.

    Differences from the recipe of Wong et al. (2020): the full size is 384 pixels, about that of ImageNet's images; all
    images are cropped to squares when they are stored; and crops have one scale instead of 8 to 100% of an image.

    Args:
        path: Folder of the images, as in `image_folder`.
        size: Size to which the shorter side of test images is resized, in pixels.
        crop: Side of the central square that is evaluated. Resolution stages of the run determine the training images.

    Raises:
        UserError: As `image_folder`.
        ValueError: The crop does not fit.

    Reference:
        ILSVRC 2012 (Russakovsky et al., 2015), with val/ sorted into class folders.
    """
    if not 0 < crop <= size or (size - crop) % 2:
        raise ValueError(f"crop {crop} must be size {size} or less, by an even number of pixels")
    folder = find_folder(path)
    if not (folder / "train").is_dir():
        raise UserError(f"imagenet: {folder} has no train/: it needs train/CLASS/ and val/CLASS/ with images")
    classes, train, test = list_images(folder, test_share=0.5)
    listing = train + test
    images = centre(decoded(folder, listing, size, mapped=True), (size - crop) // 2)
    labels = torch.tensor([image.label for image in listing])
    count = len(train)

    def train_at(size: int) -> Tensor:
        return decoded(folder, listing, size, mapped=True)[:count]

    mean, std = NORMALISATIONS["imagenet"].mean, NORMALISATIONS["imagenet"].std
    return Dataset(images[:count], labels[:count], images[count:], labels[count:], classes, mean, std, train_at)

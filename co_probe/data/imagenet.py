"""ImageNet, or any folder of images too large for memory: decoded once for each size, and read from the disk."""

import torch
from torch import Tensor

from co_probe.data.augment import centre
from co_probe.data.dataset import Dataset
from co_probe.data.folder import decoded, find_folder, list_images
from co_probe.data.normalisation import NORMALISATIONS
from co_probe.errors import UserError


def imagenet(path: str, *, size: int = 384, crop: int = 288) -> Dataset:
    """Images in `path`/train/CLASS/ and `path`/val/CLASS/, found, listed and decoded as by `image_folder`.

    `size`, `crop`: evaluation is on the central square of `crop` pixels of images whose shorter side is resized to
    `size`, for a whole run; what is trained on, and when, is said by the run's resolution stages.
    Pixels lie as uint8 in the data folder, a file a size, and are mapped from there: 1,331,167 images take 102 GB at
    160, 495 GB at 352 and 589 GB at 384 pixels, and hours to decode. They are read batch by batch, in random order:
    this wants a solid-state disk. `mean` and `std` are the usual ones of ImageNet.
    Departures from the recipe of Wong et al. (2020): full size is 384 pixels here, about what ImageNet's images have;
    all are cut to squares when they are stored; and crops are of one scale, not stretched from 8 to 100% of an image.
    Raises UserError as `image_folder` does, ValueError for a crop that does not fit.
    Source of the layout: ILSVRC 2012 (Russakovsky et al., 2015), its val/ sorted into class folders.
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

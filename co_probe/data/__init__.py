"""Registry of data sets. User code is a function of keyword settings that returns a `Dataset`."""

from co_probe.config.registry import Registry

DATA = Registry(
    "data set",
    {
        "cifar10": "co_probe.data.downloads:cifar10",
        "cifar100": "co_probe.data.downloads:cifar100",
        "digits": "co_probe.data.digits:digits",
        "image-folder:PATH": "co_probe.data.folder:image_folder",
        "imagenet:PATH": "co_probe.data.imagenet:imagenet",
        "svhn": "co_probe.data.downloads:svhn",
    },
)

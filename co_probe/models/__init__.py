"""Classifiers, by name. Each takes images in [0, 1]: normalisation is its first layer.

Every entry, and every model given as `package.module:Name`, is called as `entry(channels, classes, mean, std,
**settings)`.
"""

from co_probe.config.registry import Registry

MODELS = Registry(
    "model",
    {
        "preact_resnet": "co_probe.models.preact_resnet:PreActResNet",
        "preact_resnet18": "co_probe.models.preact_resnet:preact_resnet18",
        "preact_resnet_v1": "co_probe.models.preact_resnet_v1:preact_resnet_v1",
        "resnet50": "co_probe.models.libraries:resnet50",
        "robustbench:NAME": "co_probe.models.robustbench:robustbench_model",
        "timm:NAME": "co_probe.models.libraries:timm_model",
        "torchvision:NAME": "co_probe.models.libraries:torchvision_model",
        "wide_resnet": "co_probe.models.wide_resnet:WideResNet",
        "wide_resnet28_10": "co_probe.models.wide_resnet:wide_resnet28_10",
        "wide_resnet34_10": "co_probe.models.wide_resnet:wide_resnet34_10",
    },
)

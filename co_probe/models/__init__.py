"""Classifiers, by name. Each takes images in [0, 1]: normalisation is its first layer."""

from co_probe.registry import Registry

MODELS = Registry("model", {"preact_resnet": "co_probe.models.preact_resnet:PreActResNet"})

"""Translation of settings in runs and `.pt` files of earlier versions."""

from collections.abc import Mapping
from typing import Any

ARCHITECTURE = 2  # stored in runs and `.pt` files; with 1, or absent, `preact_resnet*` is another network
PREACT_V1 = {"preact_resnet": "preact_resnet_v1", "preact_resnet18": "preact_resnet_v1"}  # with the defaults of 18


def upgrade_wrappers(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the wrappers of the model of a `.pt` file, {section: settings}; earlier versions had only a low-pass."""
    low_pass = content.get("low_pass", 0)
    return dict(content.get("wrappers", {"low_pass": low_pass} if low_pass else {}))


def upgrade_model(model: Mapping[str, Any], architecture: int) -> dict[str, Any]:
    """Return `model` settings with the current name of the network at `architecture`."""
    if architecture >= ARCHITECTURE:
        return dict(model)
    return {**model, "name": PREACT_V1.get(model["name"], model["name"])}

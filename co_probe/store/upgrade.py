"""Translates the settings of runs and `.pt` files that earlier versions wrote."""

from collections.abc import Mapping
from typing import Any

ARCHITECTURE = 2  # stored with runs and `.pt` files; 1, or absent: `preact_resnet*` was another network
PREACT_V1 = {"preact_resnet": "preact_resnet_v1", "preact_resnet18": "preact_resnet_v1"}  # its defaults are those of 18


def upgrade_wrappers(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what wraps the model of a `.pt` file, {section: settings}; earlier versions knew only a low-pass."""
    low_pass = content.get("low_pass", 0)
    return dict(content.get("wrappers", {"low_pass": low_pass} if low_pass else {}))


def upgrade_model(model: Mapping[str, Any], architecture: int) -> dict[str, Any]:
    """Return the `model` settings under today's name of the network that they meant at `architecture`."""
    if architecture >= ARCHITECTURE:
        return dict(model)
    return {**model, "name": PREACT_V1.get(model["name"], model["name"])}

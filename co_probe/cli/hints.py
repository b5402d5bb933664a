"""Suggestions of settings for guessed options: `--lr` is `--set optimizer.learning_rate=VALUE`."""

from collections.abc import Iterator
from typing import Any

SYNONYMS = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "dataset": "data",
    "arch": "model",
    "scheduler": "schedule",
}


def setting_for(option: str) -> str | None:
    """Return the setting, with its section, for an unknown option; None if there is none.

    Args:
        option: Option that was typed: `--lr`, `--batch-size`, `--optimizer`.
    """
    from co_probe.config.presets import configure

    name = option.lstrip("-").replace("-", "_")
    name = SYNONYMS.get(name, name)
    known = list(_dotted(configure("digits", "fgsm").to_dict()))
    found = next((key for key in known if key == name or key.endswith(f".{name}")), None)
    return f"{found}.name" if f"{found}.name" in known else found


def _dotted(settings: dict[str, Any], before: str = "") -> Iterator[str]:
    """Yield names of settings with their sections: `optimizer.momentum`."""
    for name, value in settings.items():
        yield before + name
        if isinstance(value, dict):
            yield from _dotted(value, f"{before}{name}.")

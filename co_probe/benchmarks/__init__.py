"""The cost of training, attacking, storing and reading images on this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from co_probe.config.registry import Registry
from co_probe.errors import UserError

PARTS = Registry(
    "part",
    {
        "steps": "co_probe.benchmarks.steps:steps",
        "indicators": "co_probe.benchmarks.steps:indicators",
        "attacks": "co_probe.benchmarks.attacks:attacks",
        "storage": "co_probe.benchmarks.storage:storage",
        "data": "co_probe.benchmarks.data:data",
    },
)


def bench(
    methods: str | Sequence[str] | None = None,
    *,
    parts: str | Sequence[str] | None = None,
    preset: str = "digits",
    settings: dict[str, Any] | None = None,
    repeats: int = 10,
    device: str = "auto",
    folder: str | Path = ".",
    compile: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure the speed of training steps, attacks, storage and reading of images on this machine.

    Candidates of a part are measured in turns, so that other load on the machine affects all of them equally.

    Args:
        methods: Training methods; None for all in the part `steps`, FGSM in `indicators`, and APART in `storage`.
        parts: Names in `PARTS`, whose functions describe their quantities; None for all.
        preset: Settings of a run, by name or as a path of a TOML file. CIFAR and SVHN are replaced by random images of
            the same shape and number.
        settings: Settings that override the preset.
        repeats: Number of turns.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        folder: Where the parts `storage` and `data` write; their files are deleted afterwards.
        compile: Measure `steps` and `attacks` also on a network that went through torch.compile.
        progress: Called after each turn with the part and its numbers of finished and of planned turns.

    Returns:
        A tidy table with the columns part, subject, quantity, value (median), low and high (quartiles) and n (number of
        measurements), and conditions: preset, model, data, images (`real` or `random`), batch_size, dtype, device,
        torch.

    Raises:
        UserError: For an unknown method, part, preset or setting, or a folder that cannot be written.

    Example:
        >>> frame = co_probe.bench(["fgsm", "apart"], parts="steps")
        >>> frame.pivot(index="subject", columns="quantity", values="value")
    """
    import torch

    from co_probe.benchmarks.setup import Setup

    names = [parts] if isinstance(parts, str) else list(dict.fromkeys(parts or PARTS.entries))
    functions = {name: PARTS.load(name) for name in names}
    if repeats < 1:
        raise UserError("a benchmark needs at least one repeat")
    asked = [methods] if isinstance(methods, str) else methods
    with torch.random.fork_rng():
        setup = Setup(preset, settings or {}, asked, repeats, device, Path(folder), compile, progress)
        rows = [{"part": name, **row} for name, measure in functions.items() for row in measure(setup)]
    return pd.DataFrame(rows).assign(**setup.description)

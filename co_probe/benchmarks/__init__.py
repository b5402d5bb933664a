"""What training, attacking and storing cost on this machine, each against a yardstick that is measured beside it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from co_probe.config.registry import Registry
from co_probe.errors import UserError

DEFAULT = ("steps", "gradients", "attacks", "accuracy", "storage")
PARTS = Registry(
    "part",
    {
        "accuracy": "co_probe.benchmarks.attacks:accuracy",
        "attacks": "co_probe.benchmarks.attacks:attacks",
        "gradients": "co_probe.benchmarks.steps:gradients",
        "steps": "co_probe.benchmarks.steps:steps",
        "storage": "co_probe.benchmarks.storage:storage",
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
    """Measure `parts` (one or several; all, if None), `repeats` times in turns: slow moments then strike all alike.

    `steps`: a training step of each method; `gradients`: the same step of each against one whose perturbation pass
    back-propagates into the weights too; `attacks`: a PGD attack of ours and those of torchattacks and foolbox, where
    they are installed, and a loop that calls `loss.backward()`; `accuracy`: accuracy under PGD-20 of ours and theirs;
    `storage`: writing an epoch into `folder`, and reading it back. What each measures is said where it is defined.

    `methods`: for `steps` all if None, for `gradients` and `storage` APART; `settings`: over the preset; `compile`:
    measure `steps` and `attacks` through torch.compile too, beside the plain ones. Data sets that would have to be
    downloaded are stood in for by random images of their shape and number.
    Returns a tidy table: part, subject, quantity, value (median), low and high (quartiles), n (repeats); and in what
    circumstances: preset, model, data, images (`real`, or `random` in their place), batch_size, dtype, device, torch.
    Raises UserError for an unknown method, part, preset or setting, or if `folder` cannot be written.

    >>> frame = co_probe.bench(["fgsm", "apart"], parts=["steps"])
    >>> frame.pivot(index="subject", columns="quantity", values="value")
    """
    from co_probe.benchmarks.subject import Subject

    methods = [methods] if isinstance(methods, str) else methods
    parts = [parts] if isinstance(parts, str) else parts
    names = [PARTS.check(name) for name in dict.fromkeys(parts or DEFAULT)]
    if repeats < 1:
        raise UserError("a benchmark needs at least one repeat")
    subject = Subject(preset, settings or {}, methods, repeats, device, Path(folder), progress, compile)
    rows = []
    for name in names:
        rows += [{"part": name, **row} for row in PARTS.load(name)(subject)]
    return pd.DataFrame(rows).assign(**subject.circumstances)

"""Selection of epochs that show a collapse, and their perturbations."""

import pandas as pd

from co_probe.config.labels import AttackLike
from co_probe.diagnosis.stored import curves_of, verdict_of
from co_probe.probes.perturbations import perturbations as perturbations_at
from co_probe.store import StoredRun


def key_epochs(run: StoredRun) -> list[int]:
    """Select the most robust epoch before the first episode, the least robust one in episodes, and the last.

    Args:
        run: A run.

    Returns:
        Epochs, increasing; without an episode, the most robust one and the last.

    Raises:
        UserError: No epoch is finished.
    """
    last, found = run.last_epoch, verdict_of(run)
    robust = curves_of(run).set_index("epoch")["pgd"].dropna()
    if found.onset is None:
        return sorted({run.best_epoch, last})
    within = robust[[found.collapsed(int(epoch)) for epoch in robust.index]]
    lowest = last if found.collapsed(last) else int(within.idxmin())
    return sorted({int(robust[robust.index < found.onset].idxmax()), lowest, last})


def perturbations(run: StoredRun, images: int = 4, generator: AttackLike = "fgsm") -> pd.DataFrame:
    """Make perturbations at the `key_epochs`; see `co_probe.probes.perturbations.perturbations`."""
    return perturbations_at(run, key_epochs(run), images, generator)

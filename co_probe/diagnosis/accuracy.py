"""Accuracies of a run without training metrics."""

from typing import Any

from co_probe.errors import UserError
from co_probe.probes.accuracy import Accuracy
from co_probe.probes.named import probe
from co_probe.probes.runner import Progress
from co_probe.store import StoredRun


def measure_accuracy(run: StoredRun, *, device: str = "auto", progress: Progress | None = None) -> str | None:
    """Measure the probe `accuracy` at every epoch of a run without PGD-10 accuracy, where it is not stored.

    Args:
        run: The run.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        progress: Called after each epoch.

    Returns:
        Reason why it cannot be measured (the code of a foreign model is missing), or None.
    """
    if not run.epochs or run.metric("pgd10"):
        return None
    try:
        probe(Accuracy(), run, device=device, progress=progress)
    except UserError as error:
        return str(error)
    return None


def measured_accuracy(run: Any) -> dict[int, dict[str, float]]:
    """Return stored accuracies on test images, {epoch: {`clean`, `fgsm`, `pgd10`: value}}; empty if there are none.

    Args:
        run: A run with a method `frame`.
    """
    frame = run.frame("accuracy")
    found: dict[int, dict[str, float]] = {}
    for row in frame.to_dict("records") if len(frame) else []:
        if row["split"] == "test":
            found.setdefault(int(row["epoch"]), {})[row["quantity"]] = float(row["value"])
    return found

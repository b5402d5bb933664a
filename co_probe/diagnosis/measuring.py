"""Measurements for a diagnosis."""

from typing import Any

from co_probe.diagnosis.changes import main_episode
from co_probe.diagnosis.masking import measure_masking
from co_probe.diagnosis.verdict import Verdict
from co_probe.errors import UserError
from co_probe.numerics.change import SPAN
from co_probe.probes.named import probe
from co_probe.probes.runner import Progress
from co_probe.store import StoredRun

PROBES = ("alignment", "local-linearity", "distortion", "label-signal", "low-loss")
"""Probes that separate explanations of a collapse; the gap is among training metrics."""


def measure_for(
    run: StoredRun, verdict: Verdict, *, device: str = "auto", progress: Progress | None = None
) -> str | None:
    """Measure `PROBES` at the epochs around the longest episode, where they are not stored.

    Args:
        run: The run.
        verdict: The verdict on it.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        progress: Called after each epoch.

    Returns:
        Reason why they cannot be measured (missing code of a foreign model, read-only run), or None.
    """
    span = main_episode(verdict)
    if span is None or verdict.kind == "masked":
        return None
    near = [epoch for epoch in run.epochs if span[0] - SPAN <= epoch <= min(span[1], span[0] + SPAN)]
    trained = len(run.probe_set.get("train", ())) > 0
    for name in PROBES:
        settings: dict[str, Any] = {"split": "test"} if name == "low-loss" and not trained else {}
        try:
            probe(name, run, epochs=near, device=device, progress=progress, **settings)
        except UserError as error:
            return str(error)
    return None


__all__ = ["PROBES", "measure_for", "measure_masking"]

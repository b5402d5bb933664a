"""Explanations of a collapse, and the evidence for them in recorded indicators."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from co_probe.config.indicators import MECHANISMS
from co_probe.diagnosis.changes import IndicatorChange, main_episode
from co_probe.diagnosis.timeline import number
from co_probe.diagnosis.verdict import Verdict
from co_probe.store import StoredRun

BEYOND_CLEAN = 0.01
"""Excess of training-attack over clean accuracy that shows that perturbations carry labels."""

LITTLE = 0.5
"""Greatest rise of the gap, in nats, of perturbations that have not decayed in a slow decline."""


@dataclass(frozen=True)
class Explanation:
    """One explanation with its evidence.

    Attributes:
        name: A key of `MECHANISMS`.
        supported: Whether at least half of its indicators moved in the expected direction; None if none is known.
        evidence: Its indicators with numbers, in order of change.
    """

    name: str
    supported: bool | None
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        how = {True: "supported", False: "not supported", None: "not measured"}[self.supported]
        numbers = f": {'; '.join(self.evidence)}" if self.evidence else ""
        return f"{MECHANISMS[self.name]}: {how}{numbers}"


def explanations(
    verdict: Verdict, curves: pd.DataFrame, moved: Sequence[IndicatorChange], run: StoredRun | None = None
) -> list[Explanation]:
    """Evaluate all explanations; supported ones come first, in the order in which their indicators moved.

    Args:
        verdict: The verdict.
        curves: Accuracies, as for `movements`.
        moved: Result of `movements`.
        run: The run, if available.

    Returns:
        Explanations; empty for a run without collapse and robust overfitting, or with masked gradients.
    """
    if verdict.kind == "robust-overfitting":
        return _of_slow_decline(verdict, curves, run)
    if not moved or verdict.kind == "masked":
        return []
    found = []
    for name in MECHANISMS:
        own = [each for each in moved if each.indicator.mechanism == name]
        votes = [each.change is not None for each in own]
        words = [_words(each) for each in sorted(own, key=lambda each: each.change is None)]
        if name == "label" and (exceeds := _exceeds_clean(verdict, curves)) is not None:
            votes.append(exceeds[0])
            words.append(exceeds[1])
        found.append(Explanation(name, 2 * sum(votes) >= len(votes) if votes else None, tuple(words)))
    order = [each.indicator.mechanism for each in moved if each.change is not None]
    return sorted(
        found,
        key=lambda each: (
            {True: 0, False: 1, None: 2}[each.supported],
            order.index(each.name) if each.name in order else len(order),
        ),
    )


def _words(each: IndicatorChange) -> str:
    before, after = number(each, each.before), number(each, each.after)
    if each.change is None:
        return f"{each.indicator.label} did not move clearly ({before}, then {after})"
    return f"{each.indicator.label} {'rose' if each.after > each.before else 'fell'} from {before} to {after}"


def _exceeds_clean(verdict: Verdict, curves: pd.DataFrame) -> tuple[bool, str] | None:
    """Return whether training-attack accuracy exceeds clean accuracy, in words too; None if unknown."""
    span = main_episode(verdict)
    if span is None or not {"fgsm", "clean"} <= set(curves):
        return None
    late = curves[(curves["epoch"] > (span[0] + span[1]) / 2) & (curves["epoch"] <= span[1])]
    attacked, clean = late["fgsm"].mean(), late["clean"].mean()
    if np.isnan(attacked) or np.isnan(clean):
        return None
    exceeds = bool(attacked > clean + BEYOND_CLEAN)
    how = "exceeds" if exceeds else "does not exceed"
    return (
        exceeds,
        f"accuracy under the training attack ({100 * attacked:.1f}%) {how} clean accuracy ({100 * clean:.1f}%)",
    )


def _of_slow_decline(verdict: Verdict, curves: pd.DataFrame, run: StoredRun | None) -> list[Explanation]:
    """Explain robust overfitting: training images are memorised while perturbations remain strong."""
    best, last = verdict.best_epoch, verdict.last_epoch
    if best is None or last is None or best == last:
        return []
    found = []
    known = curves.set_index("epoch")
    if "train" in known and not known.loc[[best, last], "train"].isna().any():
        then, now = (float(known.loc[epoch, "train"]) for epoch in (best, last))
        text = (
            f"training accuracy went from {100 * then:.1f}% (epoch {best}) to {100 * now:.1f}% while PGD accuracy fell"
        )
        found.append(Explanation("memorisation", now > then, (text,)))
    gaps = {} if run is None else run.metric("gap")
    if best in gaps and last in gaps:
        decays = gaps[last] - gaps[best] > LITTLE
        text = f"the gap went from {gaps[best]:.2g} to {gaps[last]:.2g} nats"
        found.append(Explanation("decay", decays, (text,)))
    return sorted(found, key=lambda each: not each.supported)

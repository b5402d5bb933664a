"""Sections of a diagnosis, with one kind of evidence each.

A new section is one function from `Evidence` to `Section` or None, and one entry in `SECTIONS`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from co_probe.diagnosis import timeline as timelines
from co_probe.diagnosis.advice import advice_for
from co_probe.diagnosis.masking import masking_checks
from co_probe.diagnosis.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

    from co_probe.diagnosis.changes import IndicatorChange
    from co_probe.diagnosis.mechanism import Explanation
    from co_probe.store import StoredRun


@dataclass(frozen=True)
class Evidence:
    """Evidence that sections use.

    Attributes:
        verdict: Verdict on the curves.
        curves: Accuracies in [0, 1] with the columns epoch and pgd, and clean, fgsm and train where known.
        notes: Remarks on how the curves were obtained.
        run: The stored run; None for a log.
    """

    verdict: Verdict
    curves: "pd.DataFrame"
    notes: tuple[str, ...] = ()
    run: "StoredRun | None" = None

    @cached_property
    def movements(self) -> "list[IndicatorChange]":
        """Indicators around the longest episode, in order of change; empty without an episode."""
        from co_probe.diagnosis.changes import movements

        return [] if self.verdict.kind == "masked" else movements(self.verdict, self.curves, self.run)

    @cached_property
    def explanations(self) -> "list[Explanation]":
        """Explanations of a collapse, supported ones first; empty without a collapse."""
        from co_probe.diagnosis.mechanism import explanations

        return explanations(self.verdict, self.curves, self.movements, self.run)


@dataclass(frozen=True)
class Section:
    """One part of a diagnosis.

    Attributes:
        title: Heading; its lower-case form with underscores is the key in JSON.
        lines: Text, with one list item per entry.
        data: The same content as lists, dicts, numbers and strings.
    """

    title: str
    lines: tuple[str, ...]
    data: Any

    @property
    def key(self) -> str:
        """Name of the section in JSON."""
        return self.title.lower().replace(" ", "_")


def episodes(evidence: Evidence) -> Section | None:
    """Describe each episode: accuracies before and during it."""
    lines, data = [], []
    epoch = evidence.curves["epoch"].to_numpy()
    for each in evidence.verdict.episodes:
        end = evidence.verdict.last_epoch if each.end is None else each.end
        during = (epoch >= each.start) & (epoch <= end)
        means = {
            curve: float(np.nanmean(values))
            for curve in ("pgd", "fgsm", "train", "clean")
            if curve in evidence.curves and not np.isnan(values := evidence.curves[curve].to_numpy()[during]).all()
        }
        where = f"epoch {each.start}" if each.start == end else f"epochs {each.start} to {end}"
        ending = " (the end of the log)" if each.end is None else ""
        averages = ", ".join(f"{NAMES[curve]} {100 * mean:.1f}%" for curve, mean in means.items())
        lines.append(
            f"{where}{ending}: PGD fell from {100 * each.level:.1f}% to {100 * each.lowest:.1f}% at the lowest; "
            f"on average {averages}"
        )
        data.append({**asdict(each), "means": means})
    return Section("Episodes", tuple(lines), data) if lines else None


def timeline(evidence: Evidence) -> Section | None:
    """List the times at which indicators moved, relative to the loss of robust accuracy."""
    moved = evidence.movements
    return Section("Timeline", timelines.lines(moved), timelines.data(moved)) if timelines.lines(moved) else None


def mechanism(evidence: Evidence) -> Section | None:
    """List the explanations of a collapse, with the evidence for and against each."""
    found = evidence.explanations
    return (
        Section(
            "Mechanism", tuple(map(str, found)), [asdict(each) | {"evidence": list(each.evidence)} for each in found]
        )
        if found
        else None
    )


def masking(evidence: Evidence) -> Section | None:
    """List the checks for masked gradients, by epoch."""
    checks = masking_checks(evidence.run) if evidence.run else []
    return Section("Masking", tuple(map(str, checks)), [each.to_dict() for each in checks]) if checks else None


def notes(evidence: Evidence) -> Section | None:
    """List remarks on the log and limits of the evidence."""
    lines = (*evidence.notes, *evidence.verdict.notes)
    return Section("Notes", lines, list(lines)) if lines else None


def advice(evidence: Evidence) -> Section | None:
    """List measures to try, with their sources."""
    found = advice_for(evidence.verdict, [each.name for each in evidence.explanations if each.supported])
    lines = tuple(f"{each.text} [{each.source}, {each.url}]" if each.url else each.text for each in found)
    return Section("What to try next", lines, [asdict(each) for each in found])


NAMES = {"pgd": "PGD", "fgsm": "training attack", "train": "training images", "clean": "clean"}
SECTIONS: tuple[Callable[[Evidence], Section | None], ...] = (episodes, timeline, mechanism, masking, notes, advice)

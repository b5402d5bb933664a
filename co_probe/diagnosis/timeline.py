"""Timeline of a collapse: changes of indicators relative to the loss of robust accuracy."""

from collections.abc import Sequence

from co_probe.diagnosis.changes import CURVES, IndicatorChange, relation

RELATIONS = {
    "before": "before robust accuracy",
    "same": "in the same epoch as robust accuracy",
    "after": "after robust accuracy",
    "": "",
}


def lost_at(moved: Sequence[IndicatorChange]) -> float | None:
    """Return the epoch after which half of robust accuracy was lost; None if unknown."""
    return next((each.change.at for each in moved if each.name == "pgd" and each.change), None)


def lines(moved: Sequence[IndicatorChange]) -> tuple[str, ...]:
    """Describe the timeline: the first change, a line per change, and unchanged indicators."""
    lost, found = lost_at(moved), []
    changed = [(each, each.change) for each in moved if each.change is not None]
    first = next((each for each in changed if each[0].name != "pgd"), None)
    if first is not None and lost is not None:
        how = relation(first[1].at, lost)
        name = f"{first[0].indicator.label}, at epoch {_epoch(first[1].at)}, {RELATIONS[how]} (epoch {_epoch(lost)})"
        found.append(
            f"first: {f'robust accuracy itself (epoch {_epoch(lost)}), of what is known' if how == 'after' else name}"
        )
    for each, change in changed:
        verb = "rose" if each.after > each.before else "fell"
        how = "" if each.name == "pgd" else RELATIONS[relation(change.at, lost)]
        numbers = f"from {number(each, each.before)} to {number(each, each.after)}"
        found.append(f"epoch {_epoch(change.at)}: {each.indicator.label} {verb} {numbers}{', ' if how else ''}{how}")
    if still := [each.indicator.label for each in moved if each.change is None]:
        found.append(f"no clear change: {', '.join(still)}")
    return tuple(found)


def data(moved: Sequence[IndicatorChange]) -> list[dict[str, object]]:
    """Convert the timeline to plain data, with an entry per indicator in order of time."""
    lost = lost_at(moved)
    return [
        {
            "name": each.name,
            "label": each.indicator.label,
            "baseline": each.indicator.baseline,
            "epoch": each.change.at if each.change else None,
            "before": None if each.before != each.before else each.before,
            "after": None if each.after != each.after else each.after,
            "relation": relation(each.change.at, lost) or None if each.change else None,
        }
        for each in moved
    ]


def number(each: IndicatorChange, value: float) -> str:
    """Format a value of an indicator, with accuracies in percent."""
    return f"{100 * value:.1f}%" if each.name in (*CURVES, "train_accuracy") else f"{value:.2g}"


def _epoch(at: float) -> str:
    return f"{at:.0f}" if at == round(at) else f"{at:.1f}"

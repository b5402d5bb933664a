"""Recognition of accuracy curves in a training log by names of columns."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from co_probe.errors import UserError, unknown

CURVES = ("clean", "fgsm", "pgd", "train")
"""Curves that the verdict uses."""

WORDS = {
    "epoch": {"epoch", "epochs", "ep"},
    "train": {"train", "training", "trn", "tr"},
    "test": {"test", "tst", "te"},
    "validation": {"val", "valid", "validation", "eval", "dev"},
    "pgd": {"pgd"},
    "train_attack": {"trainattack", "own"},
    "fgsm": {"fgsm", "fgm"},
    "robust": {"robust", "robustness", "rob", "adv", "adversarial", "ra"},
    "autoattack": {"autoattack", "aa"},
    "clean": {"clean", "natural", "nat", "benign", "standard", "std", "sa"},
    "accuracy": {"acc", "accuracy", "top", "prec"},
}
"""Meaning -> words in names of columns."""

OTHER = {"loss", "err", "error", "time", "seconds", "sec", "lr", "rate", "memory", "seed", "count", "images"}
OTHER |= {"low", "high", "lower", "upper", "ci", "best", "grad", "norm", "gap", "strength", "eps", "epsilon", "alpha"}
"""Words of columns with other content, or the best value so far."""

GLUED = re.compile(r"(.+?)(acc|accuracy)")
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True, order=True)
class _Candidate:
    """A column that may hold a curve; the smallest candidate is used.

    Attributes:
        rank: Confidence of the name, 0 for the highest.
        validation: Whether it is measured on a validation set instead of a test set.
        unclear: Number of unknown words in its name.
        steps: Number of attack steps, negated, so that the stronger attack is preferred.
        position: Position among the columns.
        name: Name of the column.
    """

    rank: int
    validation: bool
    unclear: int
    steps: int
    position: int
    name: str


def find_columns(
    names: Sequence[str], chosen: Mapping[str, str | None] | None = None, *, where: str = "the log"
) -> dict[str, str]:
    """Find the columns of the epoch number and of the accuracy curves.

    Args:
        names: Names of all columns, such as `Test Robust Acc`, `val/pgd10` or `clean_acc`.
        chosen: Columns given by the user, {curve: column}, where a curve is `epoch` or one of `CURVES`. None or an
            empty name omits a curve.
        where: Name of the log in errors.

    Returns:
        {curve: column}, with `epoch` and `train` if they exist.

    Raises:
        UserError: A chosen curve or column does not exist, or no column holds accuracy under PGD.

    Example:
        >>> find_columns(["Epoch", "Test Acc", "Test Robust Acc", "Test Robust Loss"])
        {'epoch': 'Epoch', 'clean': 'Test Acc', 'pgd': 'Test Robust Acc'}
    """
    candidates: dict[str, list[_Candidate]] = {curve: [] for curve in ("epoch", *CURVES)}
    chosen = dict(chosen or {})
    for curve in chosen:
        if curve not in candidates:
            raise unknown("curve", curve, candidates)
    if not chosen.get("pgd", True):
        raise UserError(f"{where}: accuracy under PGD cannot be left out")
    named = {curve: _exact(column, names, where) for curve, column in chosen.items() if column}
    free = [name for name in names if name not in named.values()]
    for position, name in enumerate(free):
        if found := _classify(name, position):
            candidates[found[0]].append(found[1])
    columns = named | {curve: min(group).name for curve, group in candidates.items() if group and curve not in chosen}
    unlabelled = [each.name for each in candidates["clean"] if each.rank == 2 and each.name not in columns.values()]
    if (
        unlabelled and not {"train", *chosen} & columns.keys()
    ):  # Keras: accuracy next to val_accuracy is on training images
        columns["train"] = unlabelled[0]
    if "pgd" not in columns:
        listed = ", ".join(names)
        raise UserError(
            f"{where}: no column is named like accuracy under PGD; name it as columns 'pgd=NAME' "
            f"(the columns are: {listed})"
        )
    return {curve: columns[curve] for curve in candidates if curve in columns}


def _classify(name: str, position: int) -> tuple[str, _Candidate] | None:
    """Return the curve that a column may hold, or None."""
    words = _words(name)
    known = {meaning for meaning, group in WORDS.items() if group & set(words)}
    understood = set().union(*WORDS.values())
    unclear = sum(word not in understood and len(word) > 1 and not word.isdigit() for word in words)

    def candidate(rank: int) -> _Candidate:
        after = words[words.index("pgd") + 1 :] if "pgd" in words else []
        steps = int(after[0]) if after and after[0].isdigit() else 0
        return _Candidate(rank, "validation" in known, unclear, -steps, position, name)

    attacked = known & {"pgd", "train_attack", "fgsm", "robust", "autoattack"}
    if known == {"epoch"} and not unclear:
        return "epoch", candidate(0)
    if set(words) & OTHER or ("std" in words and attacked) or ("5" in words and not attacked):
        return None
    if "train" in known and not known & {"test", "validation"}:
        if "clean" in known or not (attacked or "accuracy" in known or (known == {"train"} and not unclear)):
            return None
        return "train", candidate(0 if attacked else 1)
    if "pgd" in known:
        return "pgd", candidate(0)
    if attacked & {"train_attack", "fgsm"}:
        return "fgsm", candidate(0 if "train_attack" in known else 1)
    if attacked:
        return "pgd", candidate(1 if "robust" in known else 2)
    if "clean" in known:
        return "clean", candidate(0)
    if "accuracy" in known:
        return "clean", candidate(1 if known & {"test", "validation"} else 2)
    return None


def _words(name: str) -> list[str]:
    """Split a name such as `TestRobustAcc`, `test-robust-acc` or `testacc` into lower-case words and numbers."""
    words: list[str] = []
    for word in re.findall(r"[a-z]+|\d+", CAMEL.sub(" ", name).lower().replace("train_attack", "trainattack")):
        glued = GLUED.fullmatch(word)
        words.extend(glued.groups() if glued and any(glued[1] in group for group in WORDS.values()) else [word])
    return words


def _exact(column: str, names: Sequence[str], where: str) -> str:
    """Find the column that the user named, ignoring case and surrounding blanks."""
    if column in names:
        return column
    for name in names:
        if name.strip().lower() == column.strip().lower():
            return name
    raise unknown(f"column of {where}", column, names)

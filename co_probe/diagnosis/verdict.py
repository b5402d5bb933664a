"""Verdict on a training run from its accuracy curves."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from co_probe.diagnosis.episodes import (
    COLLAPSED,
    MARGIN,
    Curves,
    Episode,
    Fall,
    Floats,
    Z,
    episodes_of,
    find_falls,
    is_robust,
    level,
    noise,
)
from co_probe.errors import UserError

KINDS = (
    "healthy",
    "catastrophic",
    "recovered",
    "robust-overfitting",
    "diverged",
    "never-robust",
    "masked",
    "undecided",
)

HEADLINES = {
    "healthy": "no catastrophic overfitting",
    "robust-overfitting": "robust overfitting, not catastrophic",
    "diverged": "diverged",
    "never-robust": "never robust",
    "masked": "masked gradients",
}
"""Short descriptions of kinds without episodes."""

SMOOTHING = 5
"""Number of epochs over which PGD accuracy is averaged to detect a slow decline."""

DECLINE = 0.02
"""Least decline of averaged PGD accuracy, from its best to the end, in robust overfitting."""

PAIRED = 0.6
"""Assumed correlation of outcomes on the same images at two epochs; at 50% accuracy, 20% of images change."""

FULLY_RECOVERED = 0.9
"""Share of the former level at which a recovery is complete."""

MIN_EPOCHS = 5
"""Least number of logged epochs to exclude a collapse."""

MIN_IMAGES = 30
"""Number of images with an uncertainty of 25 points."""

DEFAULT_IMAGES = 1000
"""Assumed number of test images if unknown."""

COARSE = 5
"""Distance of logged epochs from which a note says that short episodes may be missed."""


OVERFITTED = "overfitted to the training attack from the start"
"""Reason of `never-robust` if training-attack accuracy is far above PGD accuracy."""


REMEDIES = {
    "pgd2": "switched to PGD-2",
    "n-fgsm": "switched to N-FGSM",
    "rollback": "went back four windows and switched to PGD-2",
    "stop": "stopped the run",
}
"""Name in settings -> description of a guard's remedy."""


@dataclass(frozen=True)
class Switch:
    """The moment at which the guard of a run has acted: switched to its remedy, or stopped the run.

    Attributes:
        step: Optimizer step of the switch, from 1.
        epoch: Number of epochs trained before it, with a fraction.
        remedy: One of `REMEDIES`.
    """

    step: int
    epoch: float
    remedy: str

    def __str__(self) -> str:
        return f"the guard {REMEDIES[self.remedy]} at step {self.step} (epoch {math.ceil(self.epoch)})"


@dataclass(frozen=True)
class Verdict:
    """Diagnosis of a training run from its accuracy curves.

    Attributes:
        kind: One of `KINDS`.
        episodes: Episodes of catastrophic overfitting, in order.
        dips: Falls of a single epoch in a log of all epochs, which count as glitches.
        epochs: Number of epochs with PGD accuracy.
        last_epoch: Last epoch with PGD accuracy, or None.
        best_epoch: Epoch of the best PGD accuracy, or None.
        best: Best PGD accuracy; NaN if not measured.
        last: PGD accuracy at the end: median of the last three logged epochs since the last fall began or ended.
        recovered: `last` as a share of the level before the first episode; None without an episode.
        reasons: Findings that explain the kind (masked, undecided, never-robust).
        notes: Limits of the evidence: coarse logs, missing curves, few images.
        switch: Switch of the guard; None if it has not switched, or there is no guard.
        sentences: Sentences of `summary`.
    """

    kind: str
    episodes: list[Episode]
    epochs: int
    last_epoch: int | None
    best_epoch: int | None
    best: float
    last: float
    recovered: float | None = None
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    switch: Switch | None = None
    dips: list[Episode] = field(default_factory=list)
    sentences: tuple[str, ...] = field(default=(), repr=False)

    @property
    def onset(self) -> int | None:
        """First epoch of the first episode, or None."""
        return self.episodes[0].start if self.episodes else None

    def collapsed(self, epoch: int) -> bool:
        """Return whether an epoch is in an episode."""
        return any(each.start <= epoch and (each.end is None or epoch <= each.end) for each in self.episodes)

    @property
    def headline(self) -> str:
        """Verdict in a few words: `catastrophic overfitting from epoch 27`."""
        return self._kind_and_episodes + (f"; {self.switch}" if self.switch else "")

    @property
    def _kind_and_episodes(self) -> str:
        if self.kind in ("catastrophic", "recovered"):
            if self.kind == "catastrophic" and len(self.episodes) == 1:
                return f"catastrophic overfitting from epoch {self.episodes[0].start}"
            spans = ", ".join(span(episode) for episode in self.episodes)
            share = self.recovered if self.recovered is not None else float("nan")
            ends = "" if self.kind == "catastrophic" else ", recovered"
            part = f" to {_percent(share, 0)}" if ends and share < FULLY_RECOVERED else ""
            plural = "" if spans.isdecimal() else "s"
            return f"catastrophic overfitting at epoch{plural} {spans}{ends}{part}"
        if self.kind == "undecided":
            return f"undecided: {'; '.join(self.reasons)}"
        return HEADLINES[self.kind]

    def summary(self) -> str:
        """Return the verdict in one or two sentences, with numbers."""
        return " ".join(self.sentences)


def verdict(
    clean: Iterable[float | None] | None = None,
    fgsm: Iterable[float | None] | None = None,
    pgd: Iterable[float | None] | None = None,
    epochs: Iterable[int] | None = None,
    n: int = DEFAULT_IMAGES,
    classes: int | None = None,
    *,
    train: Iterable[float | None] | None = None,
    masking: str | Sequence[str] | None = None,
) -> Verdict:
    """Diagnose a training run from its accuracy per epoch.

    The kinds, in the order in which they are tested:

    - *masked*: `masking` has evidence of masked gradients, which invalidate PGD accuracy.
    - *undecided*: there is no PGD accuracy.
    - *diverged*: clean and PGD accuracy end at chance, or predictions no longer depend on the image.
    - *catastrophic*: an episode (see `co_probe.diagnosis.episodes`) lasts to the end of the log.
    - *recovered*: all episodes have ended.
    - *undecided*: too few epochs or images to exclude an episode, or the log ends in a fall that clean accuracy or
      accuracy under the training attack share.
    - *never-robust*: PGD accuracy never rose above chance by a relevant amount.
    - *robust-overfitting*: the average of PGD accuracy over `SMOOTHING` epochs ends below its best by at least
      `DECLINE` and by two standard errors of a comparison on the same images.
    - *healthy*: none of these.

    Weight averaging delays the onset of the averaged model by 3 to 10 epochs.

    Args:
        clean: Accuracy on unperturbed test images, in [0, 1], one value per epoch. NaN or None where not measured.
        fgsm: Accuracy under the single-step (training) attack, on test images or, if not available, on training images.
        pgd: Accuracy under PGD on test images.
        epochs: Epoch numbers, increasing; 1, 2, 3, ... if omitted.
        n: Number of images of the accuracies.
        classes: Number of classes, which determines the accuracy of guessing. If None, that accuracy is inferred from
            epochs whose predictions ignore the image (clean and PGD accuracy agree), and 0 if there are none.
        train: Accuracy under the training attack on training images, if `fgsm` is on test images. It reveals collapses
            in which FGSM accuracy on test images falls along with PGD.
        masking: Evidence of masked gradients, in words.

    Returns:
        The verdict.

    Raises:
        UserError: If no curve is given, lengths differ, a value lies outside [0, 1], or epochs do not increase.

    Example:
        >>> run = verdict(
        ...     clean=[0.5, 0.6, 0.7, 0.75, 0.8, 0.8],
        ...     fgsm=[0.3, 0.4, 0.5, 0.85, 0.9, 0.95],
        ...     pgd=[0.3, 0.4, 0.45, 0.02, 0.0, 0.0],
        ... )
        >>> run.kind, run.episodes
        ('catastrophic', [Episode(start=4, end=None)])

    Reference:
        Wong et al. (2020), https://arxiv.org/abs/2001.03994, for catastrophic overfitting; Rice et al. (2020),
        https://arxiv.org/abs/2002.11569, for robust overfitting.
    """
    everything = _curves(clean, fgsm, pgd, train, epochs, n, classes)
    masked = (masking,) if isinstance(masking, str) else tuple(masking or ())
    curves = _with_pgd(everything)
    falls = find_falls(curves)
    found = episodes_of(falls, curves)
    dips = [each for each in found if each.start == each.end and curves.per(COARSE, least=1) >= COARSE]
    episodes = [each for each in found if each not in dips]
    notes = (*_notes(curves, falls), *map(_note_on_dip, dips), *_note_on_guessing(curves, classes))

    count = len(curves.pgd)
    best_at = int(curves.pgd.argmax()) if count else None
    last = _last(curves, falls)
    finding = _decide(curves, falls, episodes, last, masked, classes)
    return Verdict(
        kind=finding.kind,
        episodes=episodes,
        epochs=count,
        last_epoch=int(curves.epochs[-1]) if count else None,
        best_epoch=None if best_at is None else int(curves.epochs[best_at]),
        best=float("nan") if best_at is None else float(curves.pgd[best_at]),
        last=last,
        recovered=last / episodes[0].level if episodes else None,
        reasons=finding.reasons,
        notes=notes,
        dips=dips,
        sentences=finding.sentences,
    )


@dataclass(frozen=True)
class _Finding:
    """Kind of a verdict, with the sentences of its summary."""

    kind: str
    sentences: tuple[str, ...]
    reasons: tuple[str, ...] = ()


def _decide(
    curves: Curves,
    falls: Sequence[Fall],
    episodes: Sequence[Episode],
    last: float,
    masked: tuple[str, ...],
    classes: int | None,
) -> _Finding:
    """Determine the kind, in the order of precedence in `verdict`."""
    count = len(curves.pgd)
    if masked:
        text = f"Gradients are masked, so accuracy under PGD means nothing: {'; '.join(masked)}."
        return _Finding("masked", (text,), reasons=masked)
    if not count:
        return _undecided("no accuracy under PGD is given")
    final = int(curves.epochs[-1])
    if count >= MIN_EPOCHS and _diverged(curves, classes):
        ends = _percent(float(np.nanmedian(curves.clean[-3:])))
        earlier = [f"Catastrophic overfitting was seen from epoch {episodes[0].start}."] if episodes else []
        return _Finding(
            "diverged", (f"The run diverged: clean accuracy is at chance ({ends}) at epoch {final}.", *earlier)
        )
    if episodes:
        return _collapse(curves, falls, episodes, last)
    if count < MIN_EPOCHS:
        return _undecided(f"too few epochs are logged ({count}, at least {MIN_EPOCHS} are needed)")
    best = level(curves.pgd)
    if curves.n < MIN_IMAGES or (is_robust(best, curves.chance, 10**9) and noise(best, 0.0, curves.n) >= best):
        return _undecided(f"{curves.n} images are too few: even a fall from {_percent(best)} to 0 may be noise")
    if not is_robust(best, curves.chance, curves.n):
        sentences = [
            f"The run was never robust: accuracy under PGD, as a running median of three epochs, is at most "
            f"{_percent(best)} in {count} logged epochs."
        ]
        fgsm = level(curves.fgsm)
        if fgsm - best > max(MARGIN, noise(fgsm, best, curves.n)):
            sentences.append(
                f"Accuracy under the training attack reaches {_percent(fgsm)}: it overfitted to that attack."
            )
            return _Finding("never-robust", tuple(sentences), reasons=(OVERFITTED,))
        return _Finding("never-robust", tuple(sentences))
    return _without_collapse(curves, falls, last)


def _collapse(curves: Curves, falls: Sequence[Fall], episodes: Sequence[Episode], last: float) -> _Finding:
    """Describe a run with at least one episode."""
    first = next(fall for fall in falls if curves.epochs[fall.first] == episodes[0].start)
    episode, final = episodes[0], int(curves.epochs[-1])
    several = f" ({len(episodes)} episodes: {', '.join(span(each) for each in episodes)})" if len(episodes) > 1 else ""
    text = (
        f"Catastrophic overfitting from epoch {episode.start}{several}: accuracy under PGD fell from "
        f"{_percent(episode.level)} to {_percent(episode.lowest)}"
    )
    before, during = level(curves.fgsm[list(first.before)]), level(curves.fgsm[first.first : first.last + 1])
    if not np.isnan(before) and not np.isnan(during):
        text += f", while accuracy under the training attack went from {_percent(before)} to {_percent(during)}"
    share = last / episode.level
    if episodes[-1].end is None:
        ends = float(curves.pgd[-1])
        rest = (
            f"It has not recovered by epoch {final} ({_percent(ends)}, {_percent(ends / episode.level, 0)} of the "
            "former level)"
        )
        return _Finding("catastrophic", (f"{text}.", f"{rest}."))
    part = "" if share >= FULLY_RECOVERED else " in part"
    rest = (
        f"It recovered{part} after epoch {episodes[-1].end}: {_percent(share, 0)} of the former level at epoch {final}"
    )
    return _Finding("recovered", (f"{text}.", f"{rest}."))


def _without_collapse(curves: Curves, falls: Sequence[Fall], last: float) -> _Finding:
    """Distinguish robust overfitting from a healthy run, without episodes."""
    if falls and falls[-1].last == len(curves.pgd) - 1:
        return _undecided(
            f"accuracy under PGD falls from {_percent(falls[-1].level)} to {_percent(last)} at "
            f"{_epochs(curves, falls[-1])}, but clean accuracy or accuracy under the training attack falls too"
        )
    steady = np.ones(len(curves.pgd), dtype=bool)
    width = curves.per(SMOOTHING, least=2)
    for fall in falls:  # exclude glitches
        steady[fall.first : fall.last + 1] = False
    pgd = _moving_average(curves.pgd[steady], width)
    best, end = float(pgd.max()), float(pgd[-1])
    best_epoch = int(curves.epochs[steady][int(pgd.argmax()) + len(curves.pgd[steady]) - len(pgd)])
    final = int(curves.epochs[-1])
    two_errors = 2 / Z * noise(best, end, curves.n) * np.sqrt(1 - PAIRED)
    if best - end < max(DECLINE, two_errors):
        at = int(curves.epochs[int(curves.pgd.argmax())])
        text = (
            f"No catastrophic overfitting in {len(curves.pgd)} logged epochs: accuracy under PGD is "
            f"{_percent(float(curves.pgd[-1]))} at epoch {final}; its best is {_percent(float(curves.pgd.max()))}, at "
            f"epoch {at}."
        )
        return _Finding("healthy", (text,))
    text = (
        f"Robust overfitting: accuracy under PGD declines from {_percent(best)} around epoch {best_epoch} to "
        f"{_percent(end)} at epoch {final} (means of {width} logged epochs)."
    )
    return _Finding("robust-overfitting", (text, "There is no catastrophic overfitting."))


def _undecided(reason: str) -> _Finding:
    return _Finding("undecided", (f"Undecided: {reason}.",), reasons=(reason,))


def _diverged(curves: Curves, classes: int | None) -> bool:
    """Return whether the last three logged epochs are at chance, or predictions ignore the image.

    Predictions that ignore the image have the same accuracy under any attack. This covers unknown numbers of classes
    and data sets in which guessing the most frequent class exceeds 1 / classes.
    """
    clean, pgd = curves.clean[-3:], curves.pgd[-3:]
    if np.isnan(clean).any():
        return False
    ignored = bool(_ignores_image(clean, pgd).all())
    if classes is None:
        return ignored
    at_chance = [
        float(np.median(values)) - curves.chance <= noise(curves.chance, curves.chance, curves.n) / np.sqrt(2)
        for values in (clean, pgd)
    ]
    return ignored or all(at_chance)


def _ignores_image(clean: Floats, pgd: Floats) -> NDArray[np.bool_]:
    """Find epochs with equal clean and PGD accuracy of at most 50%."""
    return (np.abs(clean - pgd) < 1e-3) & (clean <= 0.5)


def _last(curves: Curves, falls: Sequence[Fall]) -> float:
    """Return final PGD accuracy: median of the last three logged epochs since a recovery or a fall."""
    if not len(curves.pgd):
        return float("nan")
    start = 0
    for fall in falls:
        start = fall.first if fall.last == len(curves.pgd) - 1 else fall.last + 1
    return float(np.median(curves.pgd[start:][-3:]))


def _notes(curves: Curves, falls: Sequence[Fall]) -> tuple[str, ...]:
    """Describe limits of the evidence and hints at masked gradients."""
    notes = []
    count = len(curves.pgd)
    if not count:
        return ()
    gaps = np.diff(curves.epochs)
    if count > 1 and np.median(gaps) >= COARSE:
        step = round(float(np.median(gaps)))
        notes.append(f"logged every {step} epochs: shorter episodes are lost, and dates are that coarse")
    elif count > 1 and gaps.max() >= COARSE:
        at = int(gaps.argmax())
        notes.append(f"no accuracy under PGD between epochs {curves.epochs[at]} and {curves.epochs[at + 1]}")
    if np.isnan(curves.clean).all():
        notes.append("no clean accuracy: divergence cannot be told from catastrophic overfitting")
    if np.isnan(curves.fgsm).all() and np.isnan(curves.train).all():
        notes.append("no accuracy under the training attack: judged by clean accuracy alone")
    best = level(curves.pgd)
    bound = noise(best, COLLAPSED * best, curves.n)
    if bound > (1 - COLLAPSED) * best and is_robust(best, curves.chance, curves.n):
        notes.append(f"on {curves.n} images, falls below {100 * bound:.0f} points may be chance")
    shared = [_epochs(curves, fall) for fall in falls if not fall.outrun]
    if shared:
        where = ", ".join(shared[:3]) + (f" and {len(shared) - 3} more" if len(shared) > 3 else "")
        notes.append(f"no episode, since clean accuracy or accuracy under the training attack fell too: {where}")
    if any(fall.outrun and fall.first == fall.last == count - 1 for fall in falls):
        notes.append("the collapse is seen at the last logged epoch only")
    clean = level(curves.clean)
    if clean > 0.5 and best > clean - 0.02:
        notes.append("PGD hardly lowers clean accuracy: check for masked gradients, or whether epsilon is very small")
    both = ~np.isnan(curves.fgsm)
    if both.any():
        pgd, fgsm = float(curves.pgd[both].mean()), float(curves.fgsm[both].mean())
        if pgd - fgsm > noise(pgd, fgsm, curves.n):
            notes.append("accuracy under PGD exceeds accuracy under FGSM: check for masked gradients")
    return tuple(notes)


def _note_on_dip(dip: Episode) -> str:
    return (
        f"accuracy under PGD was {_percent(dip.lowest)} at epoch {dip.start} alone, after {_percent(dip.level)}: "
        "a glitch, or a collapse that was over at once"
    )


def _note_on_guessing(curves: Curves, classes: int | None) -> tuple[str, ...]:
    """Describe the assumed accuracy of guessing if another number of classes could change the verdict."""
    best = level(curves.pgd)
    if classes is not None or np.isnan(best) or is_robust(best, 1 / 2, curves.n):
        return ()
    seen = f"{_percent(curves.chance)}, as at epochs whose predictions ignore the image" if curves.chance else "0%"
    judged = "robust" if is_robust(best, curves.chance, curves.n) else "not robust"
    return (
        f"the number of classes is not given, so the accuracy of guessing is itself a guess ({seen}): {_percent(best)} "
        f"under PGD counts as {judged}, and what falls below it as collapsed, whatever guessing really gives",
    )


def _epochs(curves: Curves, fall: Fall) -> str:
    first, last = int(curves.epochs[fall.first]), int(curves.epochs[fall.last])
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"


def span(episode: Episode) -> str:
    """Format the epochs of an episode: `27–91`, `95–` to the end of the log, or `12`."""
    if episode.start == episode.end:
        return str(episode.start)
    return f"{episode.start}–{'' if episode.end is None else episode.end}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}%"


def _moving_average(values: Floats, width: int) -> Floats:
    """Average over `width` successive values, or over all if there are fewer."""
    if not len(values):
        return values
    width = min(width, len(values))
    return np.convolve(values, np.full(width, 1 / width), mode="valid")


def _with_pgd(curves: Curves) -> Curves:
    """Return the curves at epochs with PGD accuracy."""
    known = ~np.isnan(curves.pgd)
    return Curves(
        epochs=curves.epochs[known],
        clean=curves.clean[known],
        fgsm=curves.fgsm[known],
        pgd=curves.pgd[known],
        train=curves.train[known],
        n=curves.n,
        chance=curves.chance,
    )


def _curves(
    clean: Iterable[float | None] | None,
    fgsm: Iterable[float | None] | None,
    pgd: Iterable[float | None] | None,
    train: Iterable[float | None] | None,
    epochs: Iterable[int] | None,
    n: int,
    classes: int | None,
) -> Curves:
    """Check the arguments of `verdict` and convert them to arrays."""
    given = {"clean": clean, "fgsm": fgsm, "pgd": pgd, "train": train}
    columns = {name: _accuracies(name, values) for name, values in given.items() if values is not None}
    if not columns:
        raise UserError("no accuracies are given: pass at least pgd=[...], one value per epoch")
    lengths = {name: len(values) for name, values in columns.items()}
    numbers = None if epochs is None else _epoch_numbers(epochs)
    if numbers is not None:
        lengths["epochs"] = len(numbers)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise UserError(f"lengths differ: {listed}; give one value per epoch, NaN where there is none")
    count = next(iter(lengths.values()))
    if not count:
        raise UserError("no epochs are given: the sequences are empty")
    if n < 1:
        raise UserError(f"n={n}: the number of images must be positive")
    if classes is not None and classes < 2:
        raise UserError(f"classes={classes}: there must be at least two")
    missing = np.full(count, np.nan)
    chance = 0.0 if classes is None else 1 / classes
    if classes is None and {"clean", "pgd"} <= columns.keys():
        constant = _ignores_image(columns["clean"], columns["pgd"])
        chance = float(columns["clean"][constant].min(initial=1.0)) if constant.any() else 0.0
    return Curves(
        epochs=np.arange(1, count + 1) if numbers is None else numbers,
        clean=columns.get("clean", missing),
        fgsm=columns.get("fgsm", missing),
        pgd=columns.get("pgd", missing),
        train=columns.get("train", missing),
        n=int(n),
        chance=chance,
    )


def _accuracies(name: str, values: Iterable[float | None]) -> Floats:
    try:
        array = np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name}: accuracies must be numbers, one per epoch") from None
    wrong = array[(array < 0) | (array > 1)]
    if len(wrong):
        hint = "; divide percentages by 100" if 1 < wrong.max() <= 100 else ""
        raise UserError(f"{name} holds {wrong[0]:g}: accuracies must lie in [0, 1]{hint}")
    return array


def _epoch_numbers(epochs: Iterable[int]) -> NDArray[np.int64]:
    try:
        array = np.array([float(epoch) for epoch in epochs])
    except (TypeError, ValueError):
        raise UserError("epochs must be whole numbers") from None
    if not np.isfinite(array).all() or (array != np.round(array)).any():
        raise UserError("epochs must be whole numbers")
    if (np.diff(array) <= 0).any():
        raise UserError("epochs must increase, each given once")
    return array.astype(np.int64)

"""The verdict on synthetic curves of every kind, the traps between kinds, and labelled curves of public runs."""

import importlib.util
import math
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from co_probe.diagnosis import KINDS, Episode, Verdict, verdict
from co_probe.errors import UserError

ROOT = Path(__file__).parents[2]
NAN = math.nan
EPOCHS = 60


def rise(start: float, end: float, count: int = EPOCHS) -> np.ndarray:
    """Accuracy that grows quickly first and slowly later, as in training."""
    return end - (end - start) * np.exp(-np.arange(count) / 6)


def healthy() -> dict[str, np.ndarray]:
    """Curves of a run on CIFAR-10 without any trouble."""
    return {"clean": rise(0.35, 0.8), "fgsm": rise(0.25, 0.52), "pgd": rise(0.24, 0.46)}


def collapse(
    curves: dict[str, np.ndarray], start: int, end: int = EPOCHS, *, pgd: float = 0.02, fgsm: float = 0.9
) -> dict[str, np.ndarray]:
    """Copies of the curves with PGD and FGSM accuracy replaced from epoch `start` to `end` (1-based, inclusive)."""
    curves = {name: values.copy() for name, values in curves.items()}
    curves["pgd"][start - 1 : end] = pgd
    curves["fgsm"][start - 1 : end] = fgsm
    return curves


def test_healthy():
    found = verdict(**healthy(), classes=10)
    assert (found.kind, found.episodes, found.onset, found.recovered) == ("healthy", [], None, None)
    assert found.best_epoch == EPOCHS == found.last_epoch == found.epochs
    assert "46.0%" in found.summary() and not found.notes


def test_catastrophic():
    found = verdict(**collapse(healthy(), 20), classes=10)
    assert found.kind == "catastrophic"
    assert found.episodes == [Episode(20, None)]
    assert found.onset == 20
    assert repr(found.episodes[0]) == "Episode(start=20, end=None)"
    assert "epoch 20" in found.summary() and "to 2.0%" in found.summary() and "to 90.0%" in found.summary()


def test_collapse_without_number_of_classes_or_clean_accuracy():
    curves = collapse(healthy(), 20)
    assert verdict(**curves).episodes == [Episode(20, None)]
    found = verdict(fgsm=curves["fgsm"], pgd=curves["pgd"])
    assert found.episodes == [Episode(20, None)]
    assert any("no clean accuracy" in note for note in found.notes)


def test_collapse_without_training_attack_is_judged_by_clean_accuracy():
    curves = collapse(healthy(), 20)
    found = verdict(clean=curves["clean"], pgd=curves["pgd"])
    assert found.kind == "catastrophic"
    assert any("clean accuracy alone" in note for note in found.notes)


def test_recovered():
    found = verdict(**collapse(healthy(), 20, 25), classes=10)
    assert (found.kind, found.episodes) == ("recovered", [Episode(20, 25)])
    assert found.recovered == pytest.approx(1, abs=0.05)
    assert "in part" not in found.summary()


def test_recovered_in_part():
    curves = collapse(healthy(), 20, 40)
    curves["pgd"][40:] = 0.37
    found = verdict(**curves, classes=10)
    assert (found.kind, found.episodes) == ("recovered", [Episode(20, 40)])
    assert "in part" in found.summary() and "83% of the former level" in found.summary()


def test_a_slow_rise_at_the_end_of_annealing_is_no_recovery():
    curves = collapse(healthy(), 20)
    curves["pgd"][40:] = np.linspace(0.02, 0.2, 20)
    found = verdict(**curves, classes=10)
    assert (found.kind, found.episodes) == ("catastrophic", [Episode(20, None)])
    assert "% of the former level" in found.summary()


def test_short_episode():
    curves = collapse(healthy(), 30, 31, pgd=0.2, fgsm=0.5)
    found = verdict(**curves, classes=10)
    assert found.episodes == [Episode(30, 31)] and found.dips == [] and found.kind == "recovered"


def test_a_dip_of_one_epoch_is_a_glitch_that_is_noted():
    found = verdict(**collapse(healthy(), 30, 30, pgd=0.2, fgsm=0.5), classes=10)
    assert (found.kind, found.episodes, found.dips) == ("healthy", [], [Episode(30, 30)])
    assert any("20.0% at epoch 30 alone" in note for note in found.notes)
    every = {name: values[::5] for name, values in collapse(healthy(), 30, 34, pgd=0.2, fgsm=0.5).items()}
    coarse = verdict(**every, epochs=range(1, EPOCHS + 1, 5), classes=10)
    assert coarse.dips == [] and len(coarse.episodes) == 1, "several epochs lie between two of a coarse log"


def test_two_episodes():
    curves = collapse(collapse(healthy(), 20, 25), 50)
    found = verdict(**curves, classes=10)
    assert (found.kind, found.episodes) == ("catastrophic", [Episode(20, 25), Episode(50, None)])
    assert "2 episodes: 20–25, 50–" in found.summary()


def test_one_epoch_back_above_the_threshold_does_not_end_an_episode():
    curves = collapse(healthy(), 20)
    curves["pgd"][39] = 0.4
    assert verdict(**curves, classes=10).episodes == [Episode(20, None)]


def test_slide_is_dated_at_its_beginning():
    curves = collapse(healthy(), 30)
    curves["pgd"][29:35] = [0.38, 0.35, 0.33, 0.25, 0.15, 0.05]
    assert verdict(**curves, classes=10).onset == 30


def test_fgsm_sags_along_at_first():
    curves = collapse(healthy(), 30)
    curves["pgd"][29:37] = np.linspace(0.38, 0.15, 8)
    curves["fgsm"][29:37] = np.linspace(0.42, 0.16, 8)
    curves["clean"][29:37] -= 0.2
    assert verdict(**curves, classes=10).episodes == [Episode(30, None)]


def test_training_accuracy_reveals_a_collapse_hidden_from_fgsm():
    curves = collapse(healthy(), 40, pgd=0.25, fgsm=0.29)
    train = rise(0.2, 0.5)
    assert verdict(**curves, train=train, classes=10).kind == "undecided"
    train[39:] = 0.85
    assert verdict(**curves, train=train, classes=10).episodes == [Episode(40, None)]


def test_training_accuracy_reveals_a_collapse_that_takes_clean_accuracy_along():
    """FGSM on CIFAR-10 (JPEG), 10,000 images, ε = 16/255, seed 0, 300 test images: epochs 1 to 14."""
    clean = [0.40, 0.42, 0.44, 0.47, 0.50, 0.51, 0.44, 0.24, 0.11, 0.12, 0.37, 0.33, 0.15, 0.27]
    fgsm = [0.09, 0.13, 0.16, 0.20, 0.24, 0.21, 0.22, 0.13, 0.40, 0.16, 0.23, 0.21, 0.12, 0.18]
    pgd = [0.04, 0.07, 0.09, 0.14, 0.187, 0.183, 0.20, 0.0, 0.003, 0.0, 0.20, 0.20, 0.12, 0.18]
    train = [0.31, 0.34, 0.33, 0.32, 0.30, 0.27, 0.25, 0.31, 0.55, 0.56, 0.25, 0.20, 0.15, 0.15]
    found = verdict(clean, fgsm, pgd, train=train, n=300, classes=10)
    assert (found.kind, found.episodes) == ("recovered", [Episode(8, 10)])
    assert verdict(clean, fgsm, pgd, n=300, classes=10).episodes == []


def test_a_low_level_on_few_images_counts_as_robust():
    """A level of 18% on 300 images is 3.6 standard errors above chance."""
    low = {"clean": rise(0.3, 0.45), "fgsm": np.full(EPOCHS, 0.2), "pgd": np.full(EPOCHS, 0.18)}
    assert verdict(**collapse(low, 30, pgd=0.0), n=300, classes=10).episodes == [Episode(30, None)]
    lower = {**low, "pgd": np.full(EPOCHS, 0.15)}
    assert verdict(**collapse(lower, 30, pgd=0.0), n=300, classes=10).kind == "never-robust"


def test_glitch_that_all_curves_share_is_no_episode():
    curves = healthy()
    for name in curves:
        curves[name][39] *= 0.4
    found = verdict(**curves, train=rise(0.2, 0.5), classes=10)
    assert (found.kind, found.episodes) == ("healthy", [])
    assert any("epoch 40" in note for note in found.notes)


def test_glitch_with_training_accuracy_as_training_attack_is_no_episode():
    curves = {**healthy(), "fgsm": rise(0.2, 0.5)}
    for name in ("clean", "pgd"):
        curves[name][39] *= 0.4
    assert verdict(**curves, classes=10).kind == "healthy"


def test_episode_before_the_run_was_robust_is_none():
    curves = healthy()
    curves["pgd"][:10] = [0.02, 0.04, 0.05, 0.04, 0.0, 0.0, 0.0, 0.05, 0.15, 0.2]
    curves["fgsm"][:10] = [0.1, 0.2, 0.2, 0.2, 0.9, 0.9, 0.9, 0.3, 0.3, 0.3]
    assert verdict(**curves, classes=10).kind == "healthy"


@pytest.mark.parametrize("train", [False, True])
def test_robust_overfitting(train):
    curves = healthy()
    curves["pgd"][20:] = np.linspace(0.46, 0.38, 40)
    curves["fgsm"][20:] = np.linspace(0.5, 0.95, 40) if train else np.linspace(0.52, 0.46, 40)
    found = verdict(**curves, classes=10)
    assert (found.kind, found.episodes) == ("robust-overfitting", [])
    assert "38." in found.summary()


def test_robust_overfitting_by_more_than_a_third_is_no_collapse_if_slow():
    curves = {name: np.r_[values, np.full(140, values[-1])] for name, values in healthy().items()}
    curves["pgd"][20:] = np.linspace(0.46, 0.24, 180)
    curves["fgsm"][20:] = np.linspace(0.5, 0.99, 180)
    assert verdict(**curves, classes=10).kind == "robust-overfitting"


def test_diverged():
    curves = healthy()
    for name in curves:
        curves[name][30:] = 0.1
    for classes in (10, None):
        found = verdict(**curves, classes=classes)
        assert (found.kind, found.episodes) == ("diverged", [])


def test_never_learned():
    constant = np.full(EPOCHS, 0.1)
    assert verdict(constant, constant, constant, classes=10).kind == "diverged"


def test_chance_is_taken_from_epochs_that_ignore_the_image():
    curves = healthy()
    for name in curves:
        curves[name] = np.r_[np.full(20, 0.1), curves[name]]
    curves["pgd"][10] = 0.01
    curves["fgsm"][10] = 0.2
    assert verdict(**curves).episodes == []


def test_diverged_after_an_episode():
    curves = collapse(healthy(), 20)
    for name in curves:
        curves[name][50:] = 0.1
    found = verdict(**curves, classes=10)
    assert (found.kind, found.onset) == ("diverged", 20)
    assert "epoch 20" in found.summary()


def test_collapse_with_clean_accuracy_above_chance_is_not_diverged():
    curves = collapse(healthy(), 20, pgd=0.0)
    curves["clean"][19:] = 0.3
    assert verdict(**curves, classes=10).kind == "catastrophic"


def test_never_robust():
    found = verdict(clean=rise(0.4, 0.95), fgsm=rise(0.1, 0.15), pgd=np.zeros(EPOCHS), classes=10)
    assert (found.kind, found.episodes) == ("never-robust", [])
    found = verdict(clean=rise(0.4, 0.95), fgsm=rise(0.1, 0.9), pgd=np.zeros(EPOCHS), classes=10)
    assert found.kind == "never-robust" and "training attack" in found.summary()


def test_an_unknown_number_of_classes_is_reported_if_it_matters():
    clean = [0.3 + 0.03 * epoch for epoch in range(12)]
    low = {"clean": clean, "fgsm": clean, "pgd": [0.12] * 6 + [0.01] * 6}
    unknown, known = verdict(**low), verdict(**low, classes=10)
    assert (unknown.kind, known.kind) == ("catastrophic", "never-robust")
    said = [note for note in unknown.notes if "number of classes is not given" in note]
    assert len(said) == 1 and "itself a guess (0%): 12.0% under PGD counts as robust" in said[0]
    assert not any("number of classes" in note for note in known.notes)
    high = {**low, "pgd": [0.7] * 6 + [0.01] * 6}
    assert not any("number of classes" in note for note in verdict(**high).notes), "above what any guessing gives"
    ignoring = {**low, "clean": [0.1, *clean[1:]], "pgd": [0.1, *low["pgd"][1:]]}
    (said,) = (note for note in verdict(**ignoring).notes if "number of classes is not given" in note)
    assert "(10.0%, as at epochs whose predictions ignore the image): 12.0% under PGD counts as not robust" in said


def test_masked_is_set_by_other_evidence():
    curves = {"clean": rise(0.4, 0.996), "fgsm": rise(0.4, 0.996), "pgd": rise(0.4, 0.99)}
    hinted = verdict(**curves)
    assert hinted.kind == "healthy" and any("masked" in note for note in hinted.notes)
    found = verdict(**curves, masking=["90% of input gradients vanish", "Square finds 40% more"])
    assert found.kind == "masked"
    assert found.reasons == ("90% of input gradients vanish", "Square finds 40% more")
    assert "Square finds 40% more" in found.summary()
    assert verdict(**curves, masking=[]).kind == "healthy"
    assert verdict(**curves, masking="gradients vanish").reasons == ("gradients vanish",)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"pgd": [0.3, 0.35, 0.4]}, "too few epochs are logged (3, "),
        ({"clean": [0.1] * 3, "pgd": [0.1] * 3, "classes": 10}, "too few epochs are logged (3, "),
        ({"pgd": rise(0.2, 0.4), "n": 10}, "10 images are too few"),
        ({"pgd": rise(0.1, 0.15), "n": 40}, "40 images are too few"),
        ({"clean": rise(0.2, 0.4)}, "no accuracy under PGD"),
        ({"clean": [0.5], "pgd": [NAN]}, "no accuracy under PGD"),
    ],
)
def test_undecided(arguments, reason):
    found = verdict(**arguments)
    assert found.kind == "undecided"
    assert reason in found.summary() and reason in found.reasons[0]


def test_short_run_with_a_collapse_is_decided():
    found = verdict([0.5, 0.6, 0.65, 0.7], [0.3, 0.4, 0.9, 0.95], [0.3, 0.38, 0.01, 0.0])
    assert (found.kind, found.onset) == ("catastrophic", 3)


def test_a_fall_within_the_noise_of_few_images_is_no_episode():
    curves = collapse(healthy(), 30, 31, pgd=0.29, fgsm=0.5)
    assert verdict(**curves, n=1000).kind == "recovered"
    few = verdict(**curves, n=60)
    assert few.episodes == [] and any("may be chance" in note for note in few.notes)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("n", [100, 1000])
def test_sampling_noise_raises_no_alarm(seed, n):
    rng = np.random.default_rng(seed)
    other_images = {name: rng.binomial(n, values) / n for name, values in healthy().items()}
    assert verdict(**other_images, n=n, classes=10).episodes == []
    difficulty = rng.uniform(size=n) + rng.normal(scale=0.1, size=(EPOCHS, n))
    same_images = {name: (difficulty < values[:, None]).mean(axis=1) for name, values in healthy().items()}
    assert verdict(**same_images, n=n, classes=10).kind == "healthy"


@pytest.mark.parametrize("step", [5, 10])
def test_coarse_logs_are_noted(step):
    epochs = np.arange(1, 101, step)
    curves = {
        "clean": np.full(len(epochs), 0.8),
        "fgsm": np.where(epochs > 50, 0.9, 0.5),
        "pgd": np.where(epochs > 50, 0.0, 0.45),
    }
    found = verdict(**curves, epochs=epochs)
    assert found.onset == 51
    assert any(f"every {step} epochs" in note for note in found.notes)
    gap = verdict(**healthy(), epochs=np.r_[np.arange(30), np.arange(40, 70)])
    assert any("between epochs 29 and 40" in note for note in gap.notes)


CURVES = st.lists(
    st.tuples(*[st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.45, 0.5, 0.9, NAN]))] * 3),
    min_size=1,
    max_size=40,
)


def columns(rows: list[tuple[float, float, float]]) -> dict[str, list[float]]:
    """The curves of rows (clean, fgsm, pgd)."""
    return dict(zip(("clean", "fgsm", "pgd"), map(list, zip(*rows, strict=True)), strict=True))


@given(CURVES, st.sampled_from([None, 2, 10]))
def test_any_curve_has_a_consistent_verdict(rows, classes):
    found = verdict(**columns(rows), classes=classes)
    assert found.kind in KINDS and found.summary().endswith(".") and "nan" not in found.summary()
    assert found.onset == (found.episodes[0].start if found.episodes else None)
    if found.kind == "catastrophic":
        assert found.episodes[-1].end is None
    if found.kind == "recovered":
        assert found.episodes and found.episodes[-1].end is not None
    ends = [episode.end for episode in found.episodes[:-1]]
    assert all(end is not None and end + 1 < later.start for end, later in zip(ends, found.episodes[1:], strict=True))


@given(CURVES, st.integers(0, 1000))
def test_epoch_numbers_shift_episodes(rows, offset):
    here = verdict(**columns(rows))
    there = verdict(**columns(rows), epochs=range(1 + offset, len(rows) + 1 + offset))
    assert there.kind == here.kind
    assert [(each.start - offset, each.end and each.end - offset) for each in there.episodes] == [
        (each.start, each.end) for each in here.episodes
    ]


@given(CURVES, st.integers(1, 5))
def test_epochs_without_values_are_ignored(rows, count):
    padded = columns(rows + [(NAN, NAN, NAN)] * count)
    assert _comparable(verdict(**padded)) == _comparable(verdict(**columns(rows)))
    nones = {name: [None if math.isnan(value) else value for value in values] for name, values in padded.items()}
    assert _comparable(verdict(**nones)) == _comparable(verdict(**padded))


@given(CURVES)
def test_missing_curve_equals_nan(rows):
    curves = columns(rows)
    absent = verdict(clean=curves["clean"], pgd=curves["pgd"])
    assert _comparable(verdict(**{**curves, "fgsm": [NAN] * len(rows)})) == _comparable(absent)


def _comparable(found: Verdict) -> tuple[object, ...]:
    return found.kind, found.episodes, found.summary(), found.notes, found.reasons, found.best_epoch, found.last_epoch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no accuracies are given"),
        ({"epochs": [1, 2]}, "no accuracies are given"),
        ({"pgd": []}, "the sequences are empty"),
        ({"pgd": [0.1, 0.2], "clean": [0.3]}, "lengths differ: clean has 1, pgd has 2"),
        ({"pgd": [0.1, 0.2], "epochs": [1, 2, 3]}, "epochs has 3"),
        ({"pgd": [0.1, 45.0]}, "divide percentages by 100"),
        ({"pgd": [0.1, -0.1]}, "pgd holds -0.1"),
        ({"train": [math.inf]}, "train holds inf"),
        ({"pgd": ["a"]}, "must be numbers"),
        ({"pgd": [0.1, 0.2], "epochs": [2, 1]}, "must increase"),
        ({"pgd": [0.1, 0.2], "epochs": [1, 1]}, "must increase"),
        ({"pgd": [0.1, 0.2], "epochs": [1, 1.5]}, "whole numbers"),
        ({"pgd": [0.1], "n": 0}, "number of images must be positive"),
        ({"pgd": [0.1], "classes": 1}, "at least two"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        verdict(**arguments)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that measures the verdict."""
    spec = importlib.util.spec_from_file_location("verdict_curves", ROOT / "analyses" / "verdict_curves.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.data
@pytest.mark.parametrize("half", ["tuned", "held out"])
def test_labelled_curves_of_public_runs(script, half):
    folder = Path(os.environ.get("CO_PROBE_CURVES", ROOT.parent / "shared" / "data" / "curves"))
    if not (folder / "epochs.csv.gz").is_file():
        pytest.skip(f"no labelled curves in {folder}; set CO_PROBE_CURVES to their folder")
    judged = [each for each in script.judge(*script.read(folder)) if each.half == half]
    scores = script.scores(judged)
    assert scores["false alarms"][0] == 0
    for name, least in (("collapses found", 0.95), ("dated within 3 epochs", 0.9), ("kinds right", 0.9)):
        hits, total = scores[name]
        assert hits >= least * total > 0, name


@pytest.mark.parametrize(
    ("curves", "headline"),
    [
        (healthy(), "no catastrophic overfitting"),
        (collapse(healthy(), 20), "catastrophic overfitting from epoch 20"),
        (collapse(healthy(), 20, 30), "catastrophic overfitting at epochs 20–30, recovered"),
        (collapse(collapse(healthy(), 20, 30), 50), "catastrophic overfitting at epochs 20–30, 50–"),
        ({"pgd": [0.3, 0.35, 0.4]}, "undecided: too few epochs are logged (3, at least 5 are needed)"),
    ],
)
def test_headline(curves, headline):
    assert verdict(**curves, n=10000).headline == headline


def test_headline_of_a_recovery_in_part():
    curves = collapse(healthy(), 20, 40)
    curves["pgd"][40:] = 0.38
    assert verdict(**curves, n=10000).headline == "catastrophic overfitting at epochs 20–40, recovered to 85%"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_headline(kind):
    episodes = [Episode(3, None)] if kind == "catastrophic" else [Episode(3, 4)] if kind == "recovered" else []
    assert Verdict(kind, episodes, 9, 9, 2, 0.4, 0.4, recovered=1.0 if episodes else None).headline


def test_collapsed_epochs():
    found = verdict(**collapse(collapse(healthy(), 20, 30), 50), n=10000)
    assert [epoch for epoch in range(1, 61) if found.collapsed(epoch)] == [*range(20, 31), *range(50, 61)]

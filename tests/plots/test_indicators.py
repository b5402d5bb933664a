"""The figures of indicators: what moved first, and by how many steps alarms precede a collapse."""

import numpy as np
import pytest
from synthetic_runs import STEPS, collapsing, healthy, step_series, synthetic_run

import co_probe
from co_probe.diagnosis.lead import collapse_of, lead
from co_probe.errors import UserError
from co_probe.reporting.drawing import figure_spec, table


@pytest.fixture(scope="module")
def fallen(tmp_path_factory):
    return synthetic_run(tmp_path_factory.mktemp("runs") / "fallen", collapsing(), step_series())


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    series = step_series(falls_at=None, seed=1)
    series["train_accuracy"][15 * STEPS :] += 0.5  # as at a collapse, in a run that has none
    return synthetic_run(tmp_path_factory.mktemp("runs") / "sound", healthy(), series)


def titles(figure, where: str) -> list[str]:
    return [ax.get_title(loc=where) for ax in figure.axes if ax.axison]


def test_panels_are_sorted_by_the_time_of_change(fallen):
    figure = co_probe.draw("indicators", fallen)
    assert titles(figure, "left") == [
        "test accuracy (%)",
        "PertAlign (cosine) ↓",
        "training accuracy ↑",
        "training loss (nats) ↓",
    ]
    moved = [float(text) for text in titles(figure, "right")[1:]]
    assert moved == sorted(moved)
    assert moved == pytest.approx([10.75, 11.25, 11.75], abs=0.26)
    shaded = [patch for ax in figure.axes for patch in ax.patches]
    assert {(patch.get_x(), patch.get_x() + patch.get_width()) for patch in shaded} == {(11, 20)}


def test_a_healthy_run_has_no_indicator_changes(sound):
    figure = co_probe.draw("indicators", sound)
    assert set(titles(figure, "right")) == {""} and not any(ax.patches for ax in figure.axes)


def test_tables_per_epoch_are_enough(runs):
    co_probe.probe("alignment", runs / "pgd", device="cpu")
    figure = co_probe.draw("indicators", runs / "pgd")
    assert "gradient alignment (cosine) ↓" in titles(figure, "left")
    assert "gap to PGD-10 (nats) ↑" in titles(figure, "left")
    drawn = table("indicators", "epochs", runs / "pgd")
    stored = co_probe.open_run(runs / "pgd").frame("alignment", split="test")
    expected = stored[stored["quantity"] == "alignment"]["value"]
    assert drawn[drawn["probe"] == "alignment"]["value"].tolist() == expected.tolist()


def test_a_run_without_results_names_the_command_to_run(tmp_path):
    bare = synthetic_run(tmp_path / "bare", {"pgd10": [0.5] * 6})
    with pytest.raises(UserError, match="bare has no indicators stored: measure some first"):
        co_probe.draw("indicators", bare)
    with pytest.raises(UserError, match="bare has no step indicators"):
        co_probe.draw("lead", bare)


def test_leads_and_false_alarms_are_counted(fallen, sound):
    found = lead([fallen, sound]).set_index(["indicator", "run"])
    assert found.loc["pert_alignment", "fallen"]["lead"] == pytest.approx(12 * STEPS - 10.75 * STEPS, abs=10)
    assert found.loc["train_accuracy", "fallen"]["lead"] == pytest.approx(12 * STEPS - 11.25 * STEPS, abs=10)
    assert found.loc["pert_alignment", "sound"]["false_alarms"] == 0
    assert found.loc["train_accuracy", "sound"]["false_alarms"] == 1, "it rose without a collapse"
    assert found["precision"].xs("fallen", level="run").to_dict() == {
        "pert_alignment": 1.0,
        "train_accuracy": 0.5,
        "loss": 1.0,
    }
    assert np.isnan(found.loc["pert_alignment", "sound"]["lead"])
    figure = co_probe.draw("lead", [fallen, sound])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["PertAlign (cosine)", "training loss (nats) (baseline)", "training accuracy (baseline)"]


def test_lead_needs_a_collapse(sound):
    with pytest.raises(UserError, match="none of these runs collapses"):
        lead([sound])


def test_a_short_dip_is_no_collapse_and_is_not_judged(tmp_path):
    curves = healthy()
    curves["pgd10"][9] = 0.1
    series = step_series(falls_at=None)
    series["pert_alignment"][9 * STEPS : 10 * STEPS] -= 0.5
    dip = synthetic_run(tmp_path / "dip", curves, series)
    assert dip.epochs[-1] == 20 and len(co_probe.verdict_of(dip).dips) == 1
    assert collapse_of(dip)[0] is None and len(collapse_of(dip)[1]) == 1
    other = synthetic_run(tmp_path / "fallen", collapsing(), step_series())
    found = lead([dip, other]).set_index(["indicator", "run"])
    assert found.loc["pert_alignment", "dip"]["false_alarms"] == 0


def test_both_figures_have_names(fallen, tmp_path, call):
    assert figure_spec("indicators").single and not figure_spec("lead").single
    for kind in ("indicators", "lead"):
        code, out, err = call("plot", kind, fallen.path, "-o", tmp_path / f"{kind}.png")
        assert code == 0, err
        assert (tmp_path / f"{kind}.png").stat().st_size > 10_000

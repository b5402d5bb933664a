import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import matplotlib
import pandas as pd
import pytest
from conftest import tiny_config
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.text import Text

matplotlib.use("Agg")

from co_probe.config.labels import labels
from co_probe.errors import UserError
from co_probe.plots import PLOTS
from co_probe.plots.deterioration import robust_accuracy, strength
from co_probe.plots.gap import attack_label, gap
from co_probe.plots.lines import name_lines
from co_probe.plots.spec import FigureOptions
from co_probe.plots.steps import steps
from co_probe.plots.style import COLLAPSED, method_style, paper_style, save
from co_probe.training.loop import epochs


def table(**extra) -> pd.DataFrame:
    rows = []
    for method in ("fgsm", "apart"):
        for epoch in (1, 2, 3):
            value = 0.1 * epoch
            interval = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 100}
            rows.append({"run": method, "method": method, "seed": 0, "epoch": epoch, **interval, **extra})
    return pd.DataFrame(rows)


def lines(ax: Axes) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines if not line.get_label().startswith("_")}


def shades(ax: Axes) -> list[tuple[float, float, str]]:
    """Left and right end and colour of what is shaded."""
    boxes = [(patch.get_path().get_extents(patch.get_patch_transform()), patch) for patch in ax.patches]
    return [(box.x0, box.x1, to_hex(patch.get_facecolor()).upper()) for box, patch in boxes]


def test_gap_draws_each_run_in_its_methods_colour_and_shades_episodes():
    ax = gap(table(quantity="gap", against="pgd20"), episodes={"fgsm": [(2, 3)]})
    assert lines(ax)["FGSM"] == pytest.approx([0.1, 0.2, 0.3]) and set(lines(ax)) == {"FGSM", "APART"}
    assert "PGD-20 (nats)" in ax.get_ylabel() and "larger = weaker" in ax.get_ylabel()
    assert [t.get_text() for t in ax.texts] == ["FGSM collapsed"]
    assert shades(ax) == [(1.5, 3.0, COLLAPSED)]
    colours = {line.get_label(): line.get_color() for line in ax.lines}
    assert colours["FGSM"] == method_style("fgsm")["color"]


def test_runs_that_collapsed_stand_out_in_one_colour():
    ax = gap(table(quantity="gap", against="pgd20"), episodes={"fgsm": [(3, 3)], "apart": [(2, 3)]})
    assert [t.get_text() for t in ax.texts] == ["APART collapsed", "FGSM collapsed"]
    assert {colour for _, _, colour in shades(ax)} == {COLLAPSED}
    assert ax.texts[0].xyann[1] != ax.texts[1].xyann[1]
    ax = gap(table(quantity="gap", against="pgd20"), episodes={"fgsm": [(3, 3)]})
    widths = {line.get_label(): line.get_linewidth() for line in ax.lines}
    assert widths["FGSM"] > widths["APART"]
    fgsm, apart = (band.get_alpha() for band in ax.collections)
    assert fgsm > apart


def test_intervals_are_lighter_the_more_runs_there_are():
    one, two = table(quantity="gap", against="pgd20").query("method == 'fgsm'"), table(quantity="gap", against="pgd20")
    assert gap(one).collections[0].get_alpha() == 2 * gap(two).collections[0].get_alpha()


def test_shades_of_many_runs_stay_light_and_within_the_epochs():
    frame = pd.concat([table(quantity="gap", against="pgd20").assign(run=f"fgsm-seed{seed}") for seed in range(20)])
    ax = gap(frame[frame["method"] == "fgsm"], episodes={f"fgsm-seed{seed}": [(1, 1), (3, 3)] for seed in range(20)})
    assert len(ax.patches) == 40 and {(left, right) for left, right, _ in shades(ax)} == {(1.0, 1.5), (2.5, 3.0)}
    assert 1 - (1 - ax.patches[0].get_alpha()) ** 20 == pytest.approx(0.25)
    assert len(ax.texts) == 1


def test_runs_without_episodes_are_not_shaded():
    ax = gap(table(quantity="gap", against="pgd20"), episodes={"other": [(1, 2)], "apart": []})
    assert not ax.patches and not ax.texts


def test_lines_are_named_at_their_ends_without_overlap():
    frame = table(quantity="gap", against="pgd20")
    early = frame[frame["method"] == "apart"].assign(run="pgd", method="pgd").query("epoch < 3")
    ax = gap(pd.concat([frame, early]))  # FGSM and APART end at the same point, PGD ends early
    assert name_lines(ax)
    at = {text.get_text(): text.xy for text in ax.texts}
    assert set(at) == {"FGSM", "APART", "PGD"} and at["FGSM"][0] == at["APART"][0] == 3 and at["PGD"][0] == 2
    ax.get_figure().canvas.draw()
    boxes = {text.get_text(): text.get_window_extent() for text in ax.texts}
    assert not boxes["FGSM"].overlaps(boxes["APART"])
    colours = {text.get_text(): text.get_color() for text in ax.texts}
    assert colours == {name: method_style(name.lower())["color"] for name in at}


def test_labels_that_would_overlap_are_joined_to_their_lines_and_stay_within_the_axes():
    frame = table(quantity="gap", against="pgd20")
    line = frame[frame["run"] == "fgsm"]
    near = [line.assign(run=name, method=name) for name in ("fgsm", "apart", "pgd", "trades", "free")]
    ax = gap(pd.concat([*near, line.assign(run="nuat", method="nuat", value=9.0)]))
    assert name_lines(ax)
    ax.get_figure().canvas.draw()
    boxes = {text.get_text(): Text.get_window_extent(text) for text in ax.texts}  # without the line to its end
    ordered = sorted(boxes.values(), key=lambda box: box.y0)
    assert len(ordered) == 6 and not any(low.overlaps(high) for low, high in pairwise(ordered))
    assert ordered[0].y0 > ax.get_window_extent().y0 - 8
    joined = {text.get_text() for text in ax.texts if text.arrow_patch}
    assert joined == set(boxes) - {"NuAT"}


def test_many_lines_are_left_to_a_legend():
    runs = [table(quantity="gap", against="pgd20").assign(run=f"{ε}", method="fgsm") for ε in range(7)]
    ax = gap(pd.concat(runs))
    assert not name_lines(ax) and not ax.texts


def test_given_axes_are_used():
    _, ax = matplotlib.pyplot.subplots()
    assert robust_accuracy(table(quantity="pgd10"), ax) is ax
    assert lines(ax)["FGSM"] == pytest.approx([10, 20, 30])  # per cent


def test_strength_shows_the_lines_of_noise():
    noise = table(quantity="noise").query("method == 'fgsm' and epoch == 1").assign(epoch=0, value=0.7)
    ax = strength(pd.concat([table(quantity="strength"), noise]))
    assert lines(ax)["uniform noise"] == [70.0, 70.0]
    assert len(lines(ax)["FGSM"]) == 3  # the yardstick's epoch 0 is no point of the line


def test_steps_tell_layers_apart():
    frame = pd.concat(
        [table(layer=layer).query("method == 'apart'") for layer in ("omega", "input", "a.conv1", "b.conv1")]
    )
    ax = steps(frame)
    assert list(lines(ax)) == ["$α_ω$ (init)", "$α_1$ (input)", "block 1", "block 2"]
    looks = {(str(line.get_color()), line.get_linestyle()) for line in ax.lines[:4]}
    assert len(looks) == 4


def test_methods_look_different_from_each_other():
    looks = {(method_style(m)["color"], str(method_style(m)["linestyle"])) for m in labels("method")}
    assert len(looks) == len(labels("method"))
    assert method_style("somebody:Else") == method_style("somebody:Else")


@pytest.mark.parametrize(("name", "label"), [("pgd10", "PGD-10"), ("pgd50x10", "PGD-50×10"), ("fgsm", "FGSM")])
def test_attack_labels(name, label):
    assert attack_label(name) == label


def test_every_kind_draws_to_every_format(runs, memorising, tmp_path):
    import co_probe
    from co_probe.reporting.drawing import draw, figure_spec
    from co_probe.runs.checkpoints import export

    signal = shutil.copytree(memorising, tmp_path / "shrink")
    opened = [co_probe.open_run(path) for path in [*sorted(runs.iterdir()), signal]]
    export(co_probe.open_run(runs / "pgd"), 3, tmp_path / "ref.pt")
    co_probe.strength(opened[:-1], tmp_path / "ref.pt", device="cpu")
    narrow = {"width": 4}
    list(epochs(tiny_config("pgd", epochs=1, model=narrow), tmp_path / "narrow", device="cpu"))
    others = {"capacity": [opened[-2], co_probe.open_run(tmp_path / "narrow")], "trade-off": opened[:-1]}
    others["generalisation"] = [opened[0], opened[-1]]  # measured under PGD-20, epoch by epoch
    with pytest.raises(
        UserError, match="none of these runs collapses"
    ):  # it is drawn in tests/plots/test_indicators.py
        draw("lead", opened[:-1], device="cpu")
    for kind in set(PLOTS) - {"lead"}:
        fit = [run for run in others.get(kind, opened) if not figure_spec(kind).unsupported(run)]
        figure = draw(kind, fit, device="cpu")
        columns = figure.get_size_inches()[0] / 3.5
        assert columns == pytest.approx(2 if kind == "indicators" else 1)
        for ending in ("png", "pdf", "svg"):
            save(figure, tmp_path / f"{kind}.{ending}")
            assert (tmp_path / f"{kind}.{ending}").stat().st_size > 2000


def test_a_figure_chooses_its_title_its_options_and_the_run_that_it_shows(trained, monkeypatch):
    import co_probe
    from co_probe.plots import steps as steps_figure

    runs = [co_probe.open_run(trained / method) for method in ("apart", "apart-simple")]
    spec = replace(steps_figure.FIGURE, title=lambda shown: f"of {', '.join(run.name for run in shown)}")
    monkeypatch.setattr(steps_figure, "FIGURE", spec)
    assert co_probe.draw("steps", runs).get_suptitle() == "of apart, apart-simple"
    assert co_probe.draw("steps", runs[:1], title="mine").get_suptitle() == "mine"
    assert spec.options() == FigureOptions(against="pgd10")
    assert replace(spec, against="pgd20").options(against=None, reference="a.pt").against == "pgd20"
    with pytest.raises(UserError, match="unknown option of a figure 'agianst': did you mean against"):
        co_probe.draw("steps", runs, agianst="pgd20")
    assert spec.shown(runs, {}) == runs and replace(spec, single=True).shown(runs, {}) == runs[:1]
    assert replace(spec, single=True).shown(runs, {"apart-simple": [(2, 3)]}) == runs[1:]


def test_perturbations_of_all_runs_are_drawn(trained):
    import co_probe

    runs = [co_probe.open_run(trained / method) for method in ("fgsm", "pgd")]
    figure = co_probe.draw("perturbations", runs, device="cpu")
    assert [part.get_suptitle() for part in figure.subfigs] == ["fgsm", "pgd"]
    pictures = [sum(len(ax.images) for ax in part.axes) for part in figure.subfigs]
    epochs = [len({run.best_epoch, run.last_epoch}) for run in runs]
    assert pictures == [2 * (1 + epochs[0]), 2 * (1 + epochs[1])]


def test_figures_that_compare_runs_name_differences(runs, memorising):
    import co_probe

    with pytest.raises(UserError, match="capacity needs runs of several widths"):
        co_probe.draw("capacity", [co_probe.open_run(runs / "fgsm"), co_probe.open_run(runs / "pgd")])
    with pytest.raises(UserError, match="trade-off compares runs on the same images"):
        co_probe.draw("trade-off", [co_probe.open_run(runs / "fgsm"), co_probe.open_run(memorising)])


def test_plots_need_neither_torch_nor_the_training_code(runs):
    import co_probe

    co_probe.gap(runs / "fgsm", device="cpu")
    code = (
        "import sys; from co_probe.store import StoredRun; from co_probe.reporting.drawing import draw\n"
        f"draw('gap', [StoredRun({str(runs / 'fgsm')!r})]); draw('steps', [StoredRun({str(runs / 'apart')!r})])\n"
        "sys.exit('torch' in sys.modules or 'co_probe.methods.base' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env={"MPLBACKEND": "Agg", "PATH": ""}).returncode == 0


def test_paper_style_is_undone():
    before = matplotlib.rcParams["font.size"]
    with paper_style():
        assert matplotlib.rcParams["font.size"] == 8
    assert matplotlib.rcParams["font.size"] == before


def test_runs_of_one_method_are_labelled_by_settings_other_than_the_seed():
    frame = table(quantity="gap", against="pgd10").assign(run="fgsm-eps0.1-seed0", method="fgsm")
    seeds = pd.concat([frame, frame.assign(run="fgsm-eps0.1-seed1")])
    ax = gap(seeds)
    assert ax.get_legend_handles_labels()[1] == ["FGSM"]
    ax = gap(pd.concat([seeds, frame.assign(run="fgsm-eps0.2-seed0")]))
    handles, labels = ax.get_legend_handles_labels()
    assert labels == ["fgsm-eps0.1", "fgsm-eps0.2"]
    assert handles[0].get_color() == handles[1].get_color() and handles[0].get_linestyle() != handles[1].get_linestyle()

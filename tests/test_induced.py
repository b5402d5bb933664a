"""Probes, sweeps and figures of induced catastrophic overfitting."""

import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import tiny_config
from scipy.fft import dctn

import co_probe
import co_probe.probes.base as runner
from co_probe.attacks import FGSM, input_gradient
from co_probe.cli.main import cli, main
from co_probe.errors import UserError
from co_probe.plots.spectrum import bands
from co_probe.probes import PROBES
from co_probe.reporting.drawing import draw
from co_probe.store import StoredRun
from co_probe.studies.injection.carriers import make_carriers
from co_probe.studies.injection.induced_figure import phase_diagram
from co_probe.studies.injection.settings import Inject, LowPass
from co_probe.sweeps.grid import Grid
from co_probe.training.loop import epochs

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def injected(tmp_path_factory):
    """A short run whose images have carriers that no attack can hide, so that it goes by them."""
    path = tmp_path_factory.mktemp("injected") / "injected"
    config = tiny_config("fgsm", epsilon=0.05, epochs=4, batch_size=64, inject={"beta": 0.5, "clip": False})
    list(epochs(config, path, device="cpu"))
    return path


def values(frame: pd.DataFrame, epoch: int) -> pd.Series:
    return frame[frame["epoch"] == epoch].set_index("quantity")["value"]


# -- probes ----------------------------------------------------------------------------------------------------------


def test_views_show_the_features_that_a_network_uses(injected):
    frame = co_probe.probe("views", injected, device="cpu")
    run = co_probe.open_run(injected)
    model, (x, y) = run.load_model(4), run.test_data()
    v = 0.5 * make_carriers(10, (1, 8, 8))
    image = x - v[y]

    def right(images, classes=y):
        return (model(images).argmax(1) == classes).float().mean().item()

    found = values(frame, 4)
    assert found["both"] == pytest.approx(right(x)) and found["image"] == pytest.approx(right(image))
    assert found["reversed"] == pytest.approx(right(image - v[y]))
    assert found["carrier"] == pytest.approx(right(v, torch.arange(10)))
    assert found["both"] > 0.8 > found["image"] and found["reversed"] < 0.2
    carrier = frame[frame["quantity"] == "carrier"]
    assert set(carrier["n"]) == {10} and (carrier["low"] == carrier["high"]).all()


def test_views_are_the_same_whichever_images_had_the_carrier(injected, tmp_path):
    config = StoredRun(injected).config.to_dict()
    for settings in ({"into": "train"}, {"reversed": True}):
        path = tmp_path / "-".join(settings)
        changed = tiny_config(
            "fgsm", epsilon=0.05, epochs=4, batch_size=64, inject={"beta": 0.5, "clip": False, **settings}
        )
        list(epochs(changed, path, device="cpu"))
        assert config["inject"] != changed.to_dict()["inject"]
        both = [values(co_probe.probe("views", run, device="cpu"), 4) for run in (injected, path)]
        pd.testing.assert_series_equal(*both)


def test_a_run_without_carriers_has_no_views(runs):
    with pytest.raises(UserError, match=r"fgsm has no carriers in its images \(inject.beta is 0\)"):
        co_probe.probe("views", runs / "fgsm", device="cpu")


def test_curvature_is_a_mean_of_exact_eigenvalues(runs):
    frame = co_probe.probe("curvature", runs / "fgsm", top=2, images=3, device="cpu")
    run = co_probe.open_run(runs / "fgsm")
    model, (x, y) = run.load_model(2).double(), run.test_data()
    exact = []
    for image, label in zip(x[:3].double(), y[:3], strict=True):
        hessian = torch.autograd.functional.hessian(
            lambda z, label=label: torch.nn.functional.cross_entropy(model(z[None]), label[None]), image
        )
        exact.append(torch.linalg.eigvalsh(hessian.reshape(64, 64))[-2:].mean().item())
    row = frame[frame["epoch"] == 2].iloc[0]
    assert row["value"] == pytest.approx(np.mean(exact), rel=5e-3) and row["n"] == 3
    assert row["low"] < row["value"] < row["high"] and (row["top"], row["images"]) == (2, 3)


def test_spectrum_is_the_energy_of_each_frequency(runs):
    frame = co_probe.probe("spectrum", runs / "fgsm", below=3, device="cpu")
    run = co_probe.open_run(runs / "fgsm")
    model, (x, y) = run.load_model(3), run.test_data()
    delta = FGSM(epsilon=run.epsilon)(model, x, y).numpy().astype(float)
    energy = dctn(delta, axes=(2, 3), norm="ortho")[:, 0] ** 2
    shares = (energy / energy.sum((1, 2), keepdims=True)).mean(0)
    rows = frame[(frame["epoch"] == 3) & (frame["quantity"] == "energy")]
    found = rows.pivot(index="row", columns="column", values="value").to_numpy()
    np.testing.assert_allclose(found, shares, atol=1e-6)
    assert found.sum() == pytest.approx(1)
    found = values(frame[frame["quantity"] != "energy"], 3)
    assert found["low"] == pytest.approx(shares[:3, :3].sum()) and found["high"] == pytest.approx(1 - found["low"])


def test_alignment_is_the_cosine_of_input_gradients(runs):
    frame = co_probe.probe("alignment", runs / "fgsm", device="cpu")
    run = co_probe.open_run(runs / "fgsm")
    model, (x, y) = run.load_model(3), run.test_data()
    rng = co_probe.numerics.rng.make_rng("cpu", run.config.seed, "probe")
    noise = torch.empty_like(x).uniform_(-run.epsilon, run.epsilon, generator=rng)
    here, there = (input_gradient(model, z, y).flatten(1).double() for z in (x, x + noise))
    found = values(frame, 3)
    assert found["alignment"] == pytest.approx(torch.cosine_similarity(here, there).mean().item(), rel=1e-5)
    assert found["gradient-norm"] == pytest.approx(here.norm(dim=1).mean().item(), rel=1e-5)


def test_a_linear_model_is_aligned_and_flat():
    from co_probe.probes.alignment import Alignment
    from co_probe.probes.images import Checkpoint, ProbeSet

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    checkpoint = Checkpoint(None, 1, torch.device("cpu"), model)
    images = ProbeSet(torch.rand(9, 1, 4, 4), torch.arange(9) % 2, 0.1, 0)
    rows = {row["quantity"]: row for row in Alignment().measure(checkpoint, images)}
    assert rows["alignment"]["value"] == pytest.approx(1, abs=1e-5) and rows["masked"]["value"] == 0
    with torch.no_grad():
        model[1].weight.zero_()
    rows = {row["quantity"]: row for row in Alignment().measure(checkpoint, images)}
    assert set(rows) == {"gradient-norm", "masked"}  # no image has a cosine, so there is no mean
    assert rows["gradient-norm"]["value"] == 0 and rows["masked"]["value"] == 1


def test_probes_resume_where_they_stopped(runs, monkeypatch):
    original, measured = runner.EpochTable._measure_epoch, []

    def stops_at_two(self, checkpoint, images):
        epoch = checkpoint.epoch
        if epoch == 2 and not measured:
            measured.append(0)
            raise KeyboardInterrupt
        measured.append(epoch)
        return original(self, checkpoint, images)

    monkeypatch.setattr(runner.EpochTable, "_measure_epoch", stops_at_two)
    for name in PROBES:
        measured.clear()
        if name in ("accuracy", "eval", "masking", "strength", "views"):  # these have tests of their own
            continue
        (runs / "fgsm" / "results.h5").unlink(missing_ok=True)
        measured.append(0)
        settings = {"against": "pgd2"} if name == "gap" else {}
        first = co_probe.probe(name, runs / "fgsm", device="cpu", **settings)
        again = co_probe.probe(name, runs / "fgsm", device="cpu", **settings)
        assert measured == [0, 1, 2, 3]
        pd.testing.assert_frame_equal(first.reset_index(drop=True), again.reset_index(drop=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["curvture"], "unknown probe 'curvture': did you mean curvature?"),
        (["curvature", "--set", "topp=3"], "unknown setting of probe curvature 'topp': did you mean top?"),
        (["curvature", "--set", "top=0"], "top and images must be greater than 0"),
        (["curvature", "--set", "top=many"], "top must be a whole number, not 'many'"),
        (["spectrum", "--set", "below=99"], "has 8 frequencies a side, and below is 99"),
        (["spectrum", "--set", "generator=foo"], "unknown attack 'foo'"),
        (["curvature", "--set", "top=65"], "has images of 64 numbers, and top is 65"),
    ],
)
def test_invalid_probes_are_refused_in_one_line(arguments, message, runs, capsys):
    with pytest.raises(SystemExit) as end:
        main(["probe", arguments[0], str(runs / "fgsm"), *arguments[1:]])
    error = capsys.readouterr().err.strip()
    assert end.value.code == 2 and message in error and "\n" not in error


def test_the_command_prints_a_table_for_people_and_for_programs(injected, runs):
    call = lambda *arguments: CliRunner().invoke(cli, ["probe", *map(str, arguments)], catch_exceptions=False)  # noqa: E731
    table = call("views", injected).stdout
    assert all(name in table for name in ("both", "image", "carrier", "reversed", "%"))
    assert "energy" not in call("spectrum", runs / "fgsm").stdout
    both = call("alignment", runs / "fgsm", runs / "pgd").stdout
    assert "alignment\n" in both and "alignment: gradient-norm\n" in both
    rows = json.loads(call("curvature", runs / "fgsm", "--json").stdout)
    assert [row["epoch"] for row in rows] == [1, 2, 3]


# -- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_grid_of_betas_names_them(tmp_path):
    grid = Grid(
        methods=("fgsm",),
        epsilons=("8/255",),
        vary={"inject.beta": (0, "4/255", 0.1)},
        settings={"inject": {"clip": False}},
    )
    cells = grid.cells(tmp_path)
    assert [path.name for path in cells] == [f"fgsm-eps8of255-beta{b}-seed0" for b in ("0", "4of255", "0.1")]
    assert [config.extension(Inject).beta for config in cells.values()] == [0, 4 / 255, 0.1]
    assert {config.extension(Inject).clip for config in cells.values()} == {False}
    assert {config.augmentation.padding for config in cells.values()} == {0}
    with pytest.raises(UserError, match=r"values of inject\.beta, each once"):
        Grid(methods=("fgsm",), vary={"inject.beta": ("4/255", "8/510")})
    with pytest.raises(UserError, match="did you mean 8/255"):
        Grid(methods=("fgsm",), vary={"inject.beta": (8,)}).cells(tmp_path)


def test_the_command_line_takes_injections(tmp_path):
    result = CliRunner().invoke(
        cli,
        ["sweep", "--methods", "fgsm", "--injects", "0,0.1", "--low-pass", "6", "--dry-run"],
        catch_exceptions=False,
    )
    assert [line.partition(":")[0] for line in result.output.splitlines()] == [
        "sweeps/sweep/fgsm-eps0.15-beta0-seed0",
        "sweeps/sweep/fgsm-eps0.15-beta0.1-seed0",
    ]
    small = ["--epochs", "1", "--set", "data.size=8", "--set", "model.width=8", "--set", "probe.test=10"]
    options = ["--inject", "4/255", "--inject-orthogonal", "--inject-into", "test", "--inject-reversed"]
    options += ["--no-clip-images", "--low-pass", "6", "--set", "batch_size=512", "--device", "cpu"]
    result = CliRunner().invoke(
        cli, ["run", "fgsm", "--out", str(tmp_path / "r"), *small, *options], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    config = StoredRun(tmp_path / "r").config
    assert config.extension(LowPass).width == 6 and config.extension(Inject) == Inject(
        beta=4 / 255, orthogonal=True, into="test", reversed=True, clip=False
    )
    result = CliRunner().invoke(cli, ["run", "fgsm", "--out", str(tmp_path / "n"), *small, "--inject-into", "test"])
    assert result.exit_code == 2 and "needs --inject BETA" in result.output


# -- figures ---------------------------------------------------------------------------------------------------------


def cells() -> pd.DataFrame:
    rows = []
    for beta in (0.0, 0.1):
        for epsilon in (2 / 255, 0.1):
            for seed in (0, 1, 2):
                onset = 3 if beta and epsilon == 0.1 and seed else 0
                rows.append({"beta": beta, "epsilon": epsilon, "value": 0.3 * seed, "onset": onset, "attack": "pgd10"})
    return pd.DataFrame(rows)


def test_a_phase_diagram_shows_means_and_outlines_collapsed_cells():
    ax = phase_diagram(cells())
    assert [text.get_text() for text in ax.texts] == ["30"] * 4
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2/255", "0.1"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "0.1"]
    sides = {tuple(map(tuple, line)) for line in ax.collections[0].get_segments()}
    ring = [((0.5, 0.5), (1.5, 0.5)), ((0.5, 0.5), (0.5, 1.5)), ((1.5, 0.5), (1.5, 1.5)), ((0.5, 1.5), (1.5, 1.5))]
    assert sides == set(ring)  # the cell of β = 0.1, ε = 0.1: two seeds of three have an onset


def test_induced_draws_one_run_by_epochs_and_several_as_a_diagram(injected, runs):
    figure = draw("induced", [StoredRun(injected)])
    labels = [text.get_text() for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()]
    assert {"carrier alone", "image alone", "PGD-10"} <= set(labels) and len(figure.axes) == 3
    assert len(draw("induced", [StoredRun(runs / "fgsm")]).axes) == 2  # no carriers, no views
    figure = draw("induced", [StoredRun(runs / name) for name in ("fgsm", "pgd")])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["FGSM", "PGD"]
    run = StoredRun(runs / "pgd")
    assert figure.axes[1].texts[0].get_text() == f"{100 * run.metrics(run.last_epoch)['pgd10']:.0f}"


def test_a_phase_diagram_may_be_of_a_stronger_attack(runs):
    stored = [StoredRun(runs / name) for name in ("fgsm", "apart")]
    figure = draw("induced", stored, against="pgd2x2", device="cpu")
    frame = stored[0].frame("eval")
    accuracy = frame.loc[frame["attack"] == "pgd2x2", "value"].item()
    assert figure.axes[0].texts[0].get_text() == f"{100 * accuracy:.0f}"
    assert "PGD-2×2" in figure.axes[-1].get_ylabel()


def test_spectrum_is_drawn_over_epochs(runs):
    frame = co_probe.probe("spectrum", runs / "fgsm", device="cpu")
    mesh = bands(frame).collections[0]
    assert mesh.get_array().shape == (8, 3)
    assert mesh.get_array()[:, 0].sum() == pytest.approx(100, abs=0.5)
    assert draw("spectrum", [StoredRun(runs / "fgsm")]).axes

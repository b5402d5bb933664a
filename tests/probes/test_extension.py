"""An indicator, its probe and its figure are registered from outside: one file and one registry line."""

import sys
from pathlib import Path

import matplotlib
import pytest

import co_probe
from co_probe.config.probes import PROBES
from co_probe.plots import PLOTS

matplotlib.use("Agg")

FILE = '''
"""The margin: by how much the right class leads, on clean images."""

from dataclasses import dataclass
from typing import ClassVar

from co_probe.plots.spec import FigureSpec, probed
from co_probe.plots.style import panels
from co_probe.probes.base import Probe, mean_row


def margin(model, x, y):
    logits = model(x)
    own = logits.gather(1, y[:, None])
    return own[:, 0] - logits.scatter(1, y[:, None], float("-inf")).amax(1)


@dataclass(frozen=True, kw_only=True)
class Margin(Probe):
    """Mean margin of the logits."""

    name: ClassVar[str] = "margin"
    scale: float = 1.0
    split: str = "test"

    def measure(self, checkpoint, images):
        return [mean_row("margin", self.scale * margin(checkpoint.model, images.x, images.y).detach())]


def draw(frames, episodes):
    figure, ax = panels()
    frame = frames["margin"]
    ax.plot(frame["epoch"], frame["value"], label="my own figure")
    return figure


FIGURE = FigureSpec(draw=draw, tables={"margin": probed("margin", scale=2.0)}, single=True)
'''


@pytest.fixture
def outside(tmp_path, monkeypatch, registries):
    """A file of a user's own that is not part of the package; registries are restored afterwards."""
    Path(tmp_path / "my_margin.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_margin", None)


def test_a_probe_registered_in_one_line_is_measured_selected_and_drawn(runs, outside):
    PROBES.register("margin", "my_margin:Margin")
    frame = co_probe.probe("margin", [runs / "fgsm", runs / "pgd"], device="cpu")
    run = co_probe.open_run(runs / "fgsm")
    x, y = run.test_data()
    logits = run.load_model(2)(x)
    right = logits.gather(1, y[:, None])[:, 0]
    expected = (right - logits.scatter(1, y[:, None], float("-inf")).amax(1)).mean().item()
    row = frame[(frame["run"] == "fgsm") & (frame["epoch"] == 2)]
    assert row["value"].item() == pytest.approx(expected, rel=1e-5)
    assert len(run.frame("margin", scale=1.0)) == 3 and run.frame("margin", scale=3.0).empty
    figure = co_probe.draw("margin", [runs / "fgsm", runs / "pgd"])
    assert [ax.get_ylabel() for ax in figure.axes] == ["margin"]
    assert {"FGSM", "PGD"} <= {text.get_text() for text in figure.axes[0].texts}


def test_a_user_figure_needs_one_line(runs, outside):
    PROBES.register("margin", "my_margin:Margin")
    PLOTS.register("margin", "my_margin:FIGURE")
    figure = co_probe.draw("margin", runs / "fgsm", device="cpu")
    (line,) = figure.axes[0].lines
    assert line.get_label() == "my own figure"
    own = co_probe.open_run(runs / "fgsm").frame("margin", scale=2.0)
    assert list(line.get_ydata()) == list(own["value"])

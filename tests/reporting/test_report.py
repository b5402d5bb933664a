"""The HTML report: what it says of which runs, that it is self-contained, and that text in it is escaped."""

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import their_project
import torch
from conftest import tiny_config
from PIL import Image

import co_probe
from co_probe.config.presets import configure
from co_probe.config.settings import parse_assignment
from co_probe.diagnosis import verdict
from co_probe.errors import UserError
from co_probe.reporting.browser import shown_epochs
from co_probe.reporting.chart import chart
from co_probe.reporting.facts import training_command
from co_probe.reporting.sprites import perturbation_sheet, shrunk, strip
from co_probe.store import ModelSpec, RunInfo, StoredRun, new_run_id
from co_probe.training.loop import epochs as train_epochs
from co_probe.training.recorder import Checkpoint, Recorder

VOID = {"meta", "link", "input", "br", "img", "line", "rect", "circle", "polyline"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects attributes that would load something, ids, and text."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.loads, self.ids, self.links, self.text = [], [], [], [], ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif tag == "a" and name == "href":
                self.links.append(value)
            elif name in ("src", "srcset", "data", "action", "href", "xlink:href") and not value.startswith(
                ("#", "data:")
            ):
                self.loads.append((tag, name, value))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    @property
    def data(self):
        return json.loads(
            re.search(r'<script type="application/json" id="data">(.*?)</script>', self.html, re.DOTALL)[1]
        )


def of(runs, folder, **options) -> Page:
    options = {"device": "cpu"} | options
    return Page(co_probe.report(runs, folder / "report.html", **options))


@pytest.fixture(scope="module")
def several(trained, tmp_path_factory) -> Page:
    """The report of the four runs."""
    import shutil

    folder = tmp_path_factory.mktemp("report")
    runs = Path(shutil.copytree(trained, folder / "runs"))
    return of([runs / name for name in ("fgsm", "apart-simple", "apart", "pgd")], folder)


def test_a_report_is_self_contained(several):
    assert not several.loads
    assert not re.search(r"url\((?!\"?(data:|#))|@import", several.html)
    assert len(several.ids) == len(set(several.ids))
    assert "default-src 'none'" in several.html
    assert len(several.html) < 5e6
    assert all(link.startswith(("#", "https://")) for link in several.links)
    assert {link[1:] for link in several.links if link.startswith("#")} <= set(several.ids)


def test_a_report_states_known_facts(several):
    for words in ("Verdict", "Undecided", "What to try next", "95% intervals", "co-probe run fgsm --preset digits"):
        assert words in several.text, words
    for kind in ("indicators", "gap", "robust-overfitting", "perturbations", "steps", "spectrum"):
        assert f"<b>{kind}.</b>" in several.html
    assert several.html.count("<svg") == len(several.data) + several.html.count("<figure")
    assert len(several.data) == 4 and all(run["epochs"] == [1, 2, 3] for run in several.data)


def test_predictions_are_those_of_the_model(several, runs):
    run = co_probe.open_run(runs / "fgsm")
    x, y = (part[:8] for part in run.test_data())
    for row, epoch in enumerate(run.epochs):
        predicted = run.load_model(epoch)(x).softmax(1)
        stored = several.data[0]["predictions"][0][row]
        assert [label for label, _, _ in stored] == [run.info.classes[i] for i in predicted.argmax(1)]
        assert [share for _, share, _ in stored] == [round(100 * p) for p in predicted.max(1).values.tolist()]
        assert [right for _, _, right in stored] == (predicted.argmax(1) == y).tolist()


def test_stored_results_are_not_measured_again_and_quick_measures_nothing(runs, tmp_path, monkeypatch):
    page = of(runs / "fgsm", tmp_path, quick=True)
    assert StoredRun(runs / "fgsm").probes() == ["gap"]  # which training has recorded
    assert "Images of fgsm: perturbations are not stored" in page.text
    assert "Figure spectrum: not measured yet of fgsm." in page.text
    assert "<b>gap.</b>" in page.html and page.data[0]["shown"] == []
    seen = []
    of(runs / "fgsm", tmp_path, progress=lambda label, done, total: seen.append((label, done, total)))
    assert ("fgsm: images", 3, 3) in seen and {"masking", "spectrum"} <= set(StoredRun(runs / "fgsm").probes())
    monkeypatch.setattr("co_probe.probes.base.EpochTable.measure", None)
    assert "<b>spectrum.</b>" in of(runs / "fgsm", tmp_path, quick=True).html


def test_one_epoch_and_packed(tmp_path):
    for _ in train_epochs(tiny_config("fgsm", epochs=1), tmp_path / "short", device="cpu"):
        pass
    co_probe.pack(tmp_path / "short", tmp_path / "packed.h5")
    page = of(tmp_path / "packed.h5", tmp_path)
    assert page.data[0]["epochs"] == page.data[0]["shown"] == [1] and "disabled" in page.html
    assert "Environment of the training" in page.text
    assert "packed: undecided" in page.text and 'class="dot pgd"' in page.html


@pytest.fixture
def bare(tmp_path) -> Path:
    """A run of a foreign model that nothing is known of but its weights, with names that are not plain text."""
    info = RunInfo(
        run_id=new_run_id(),
        method="<b>mine</b>",
        epsilon=0.14,
        shape=(1, 16, 16),
        classes=tuple(f'<i onclick="x">{i}</i>' for i in range(10)),
        mean=(0.3,),
        std=(0.4,),
        data="</script><script>alert(1)</script>",
        model=ModelSpec("their_project:SmallNet", foreign=True),
    )
    torch.manual_seed(0)
    x, y = torch.rand(12, 1, 16, 16), torch.arange(12) % 10
    path = tmp_path / "a <b>&amp; 'run' $x$"
    with Recorder(path, info=info, test=(x, y), imported=True) as recorder:
        for epoch in (5, 10, 15):
            recorder.epoch(Checkpoint(epoch=epoch, model=their_project.SmallNet().state_dict()))
    return path


def test_a_run_without_metrics_is_measured_and_its_names_are_escaped(bare, tmp_path):
    run = co_probe.open_run(bare, model=their_project.SmallNet)
    page = of(run, tmp_path)
    assert "a <b>&amp; 'run' $x$" in page.text and "</script><script>alert(1)" in page.text
    assert "<b>mine</b>" in page.text and '<i onclick="x">3</i>' in page.text
    for raw in ("<i onclick", "<b>mine", "<script>alert"):
        assert raw not in page.html, raw
    assert page.data[0]["epochs"] == page.data[0]["shown"] == [5, 10, 15]
    x, y = run.test_data()
    clean = [(run.load_model(epoch)(x).argmax(1) == y).float().mean().item() for epoch in run.epochs]
    assert page.data[0]["values"]["clean"] == pytest.approx(clean, abs=1e-4)
    assert None not in page.data[0]["values"]["pgd"] and "accuracy (split test)" in page.text
    assert page.data[0]["predictions"][0][0][0][0].startswith("<i onclick")
    assert "Trained by another program" in page.text and "co-probe run" not in page.text
    assert "Environment of the import (that of the training is unknown)" in page.text
    command = page.text[page.text.index("co-probe import ") :].splitlines()[0]
    assert command.startswith(
        "co-probe import 'CHECKPOINT-{epoch}.pt' --model their_project:SmallNet --data TEST-IMAGES"
    )
    assert "--epsilon 0.14 --normalise 0.3/0.4 --method" in command
    assert "co-probe diagnose" in page.text and page.text.count("--model their_project:SmallNet") >= 3


def test_a_model_that_is_missing_is_left_out_with_the_reason(bare, tmp_path):
    page = of(bare, tmp_path)
    assert re.search(r"Images of a <b>&amp; 'run' \$x\$: .*model", page.text)
    assert page.data[0]["shown"] == []


def test_errors_are_one_line(trained, tmp_path, call):
    with pytest.raises(UserError, match="is a folder"):
        co_probe.report(trained / "fgsm", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        co_probe.report(trained / "fgsm", tmp_path / "no" / "report.html")
    with pytest.raises(UserError, match="name at least one run"):
        co_probe.report([], tmp_path / "report.html")
    code, _, err = call("report", tmp_path / "nothing")
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "report.html").exists()


def test_the_command(runs, tmp_path, call):
    out = tmp_path / "all.html"
    code, said, _ = call("report", "--runs", runs, "--quick", "--title", "Mine & yours", "-o", out, "--device", "cpu")
    assert code == 0 and said.startswith(f"Wrote {out} (0.") and "Mine &amp; yours</h1>" in out.read_text()
    assert len(Page(out).data) == 4
    left_out = [line for line in said.splitlines() if line.startswith("Left out: ")]
    assert (
        "Left out: Images of apart: perturbations are not stored, and only stored results were asked for." in left_out
    )


def test_the_training_command_gives_the_same_settings(runs, tmp_path):
    run = StoredRun(runs / "apart")
    words = training_command(run).split(" --set ")
    assert words[0].startswith("co-probe run apart --preset digits --out runs/apart")
    overrides = [parse_assignment(word.strip("'")) for word in words[1:]]
    assert configure("digits", "apart", *overrides) == run.config


def picture(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(BytesIO(content)).convert("RGB")).astype(int)


def test_sprites():
    images = np.zeros((2, 1, 3, 4))
    images[1, 0, 0, 0] = 1
    shown = picture(strip(images, (0, 1)))
    assert shown.shape == (3, 8, 3) and shown[0, 4].tolist() == [255] * 3 and shown.sum() == 3 * 255
    wide = picture(strip(images * 10 - 5, (-np.inf, np.inf)))
    assert (wide == shown).all()
    deltas = np.stack([images, -images])
    sheet = picture(perturbation_sheet(list(deltas), 1.0))
    assert sheet.shape == (6, 8, 3)
    red, blue, white = sheet[0, 4], sheet[3, 4], sheet[1, 1]
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0] and white.min() > 240


def test_large_images_and_long_runs_are_made_smaller(trained, monkeypatch):
    assert shrunk(np.ones((2, 3, 224, 200)), 64).shape == (2, 3, 56, 50)
    assert shrunk(np.ones((2, 1, 16, 16)), 64).shape == (2, 1, 16, 16)
    run = StoredRun(trained / "fgsm")
    monkeypatch.setattr(StoredRun, "epochs", property(lambda self: list(range(1, 301))))
    monkeypatch.setattr(StoredRun, "metrics", lambda self, epoch: {"pgd10": 0.5 if epoch < 137 else 0.0, "clean": 0.9})
    shown = shown_epochs(run, 10_000)
    assert len(shown) <= 60 and {1, 136, 137, 300} <= set(shown) and shown == sorted(set(shown))


def test_a_chart_shades_episodes_and_omits_missing_values():
    pgd = [0.3, 0.35, 0.4, 0.4, 0.0, 0.0, 0.0, np.nan]
    curves = pd.DataFrame({"epoch": range(1, 9), "pgd": pgd, "clean": 0.9, "fgsm": np.nan})
    laid = chart(curves, verdict(clean=curves["clean"], pgd=pgd, n=1000, classes=10))
    assert [line.key for line in laid.lines] == ["clean", "pgd"]
    assert laid.lines[1].values[-1] is None and laid.lines[1].points.count(",") == 7
    assert laid.bands == [(300.0, 300.0)] and "shaded" in laid.alt and laid.ticks[0] == (0, 1)

"""The tutorial as a notebook: current, and it runs from top to bottom."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_the_notebook_is_current(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    monkeypatch.delitem(sys.modules, "make_notebook", raising=False)
    import make_notebook

    assert (DOCS / "tutorial.ipynb").read_text(encoding="utf-8") == make_notebook.render(), (
        "run: python docs/make_notebook.py"
    )


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat and nbclient are not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbformat and nbclient are not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the kernel, beside other tests
    notebook = nbformat.read(DOCS / "tutorial.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )
    assert "20,1.0000" in printed or "20,0.9" in printed  # FGSM's training accuracy, epoch 20
    assert "mine: " in printed and "mended: " in printed
    assert {path.name for path in tmp_path.glob("*.png")} == {"gap.png", "perturbations.png", "both.png"}

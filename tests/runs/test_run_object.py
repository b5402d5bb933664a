"""What a run offers in a notebook: its verdict, its figures, its table."""

import co_probe


def test_a_run_has_its_verdict_and_its_figures(runs):
    run = co_probe.open_run(runs / "fgsm")
    assert run.verdict == co_probe.verdict_of(run)
    figure = run.plot("gap", device="cpu")
    assert "fgsm" in figure.get_suptitle()


def test_a_notebook_shows_facts_verdict_and_the_last_epochs(runs):
    run = co_probe.open_run(runs / "fgsm")
    shown = run._repr_html_()
    assert "<b>fgsm</b>" in shown and "ε = 0.14" in shown and run.verdict.summary()[:20] in shown
    assert shown.count("<tr>") >= 3 and "pgd10" in shown


def test_a_name_is_escaped(runs):
    path = (runs / "fgsm").rename(runs / "a<b>")
    assert "a&lt;b&gt;" in co_probe.open_run(path)._repr_html_()

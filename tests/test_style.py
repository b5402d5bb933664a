"""The look of figures: one for each method."""

from co_probe.config.labels import labels
from co_probe.methods import METHODS
from co_probe.plots import style


def look(name: str) -> tuple:
    drawn = style.method_style(name)
    return drawn["color"], drawn["linestyle"]


def test_every_method_has_a_label_and_a_distinct_line_style():
    assert set(labels("method")) == set(METHODS)
    assert len({look(name) for name in METHODS}) == len(list(METHODS))
    assert len({style.method_style(name)["label"] for name in METHODS}) == len(list(METHODS))


def test_the_four_methods_of_the_demo_keep_their_look():
    expected = zip(style.OKABE_ITO[:4], style.DASHES, strict=True)
    assert [look(name) for name in ("fgsm", "apart-simple", "apart", "pgd")] == list(expected)


def test_a_user_name_has_a_line_style_of_its_own():
    ours = {look(name) for name in METHODS}
    theirs = [f"my.methods:Number{number}" for number in range(1000)]
    assert not ours & {look(name) for name in theirs}
    assert len({look(name) for name in theirs}) == style.LOOKS - len(ours)
    assert look("my.methods:A") == look("my.methods:A")

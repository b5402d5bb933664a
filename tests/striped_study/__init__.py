"""A small study that is not part of co-probe: striped images, a method of half steps, and a figure."""

from co_probe.config.sections import SECTIONS
from co_probe.data import DATA
from co_probe.methods import METHODS
from co_probe.plots import PLOTS


def register() -> None:
    DATA.register("stripes", "striped_study.parts:stripes", label="Stripes")
    METHODS.register("half-fgsm", "striped_study.parts:HalfFGSM", label="FGSM/2")
    SECTIONS.register("contrast", "striped_study.settings:Contrast")
    PLOTS.register("stripes", "striped_study.figure:SPEC")

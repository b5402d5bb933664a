"""A small study that is not part of co-probe: data, a method, a section, a probe, a function, a command, a figure."""

from co_probe.config.commands import COMMANDS
from co_probe.config.exports import EXPORTS
from co_probe.config.probes import PROBES
from co_probe.config.sections import SECTIONS
from co_probe.data import DATA
from co_probe.methods import METHODS
from co_probe.plots import PLOTS


def register() -> None:
    DATA.register("stripes", "striped_study.parts:stripes", label="Stripes")
    METHODS.register("half-fgsm", "striped_study.parts:HalfFGSM", label="FGSM/2")
    SECTIONS.register("contrast", "striped_study.settings:Contrast")
    PROBES.register("directions", "striped_study.probe:Directions", about="accuracy on stripes of each direction")
    EXPORTS.register("directions", "striped_study.probe:directions")
    COMMANDS.register("directions", "striped_study.command:directions")
    PLOTS.register("stripes", "striped_study.figure:SPEC", about="clean accuracy on stripes")

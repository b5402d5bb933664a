"""Catastrophic overfitting that injected features induce (arXiv 2206.08242)."""

from co_probe.config.sections import SECTIONS
from co_probe.plots import PLOTS
from co_probe.probes import PROBES


def register() -> None:
    """Register the components of the study."""
    SECTIONS.register("inject", "co_probe.studies.injection.settings:Inject")
    SECTIONS.register("low_pass", "co_probe.studies.injection.settings:LowPass")
    PROBES.register(
        "views",
        "co_probe.studies.injection.views:Views",
        about="accuracy on images with the injected carrier, on the carrier alone, on the image alone, and with the "
        "carrier reversed",
    )
    PLOTS.register(
        "induced",
        "co_probe.studies.injection.induced_figure:FIGURE",
        about="of several runs, final accuracy under an attack over β and ε, and which runs collapsed; of "
        "one run, robust accuracy, curvature, and accuracy on carriers and images (arXiv 2206.08242)",
    )

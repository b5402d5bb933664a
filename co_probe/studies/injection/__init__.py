"""Catastrophic overfitting that injected features induce (arXiv 2206.08242)."""

from co_probe.plots import PLOTS
from co_probe.probes import PROBES


def register() -> None:
    """Enter what the study adds into the registries."""
    PROBES.register("views", "co_probe.studies.injection.views:Views")
    PLOTS.register("induced", "co_probe.studies.injection.induced_figure:KIND")

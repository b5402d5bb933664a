"""Robust memorisation: clean generalisation with robust overfitting (arXiv 2306.01271)."""

from co_probe.config import presets
from co_probe.config.attacks import ATTACKS
from co_probe.config.commands import COMMANDS
from co_probe.config.exports import EXPORTS
from co_probe.data import DATA
from co_probe.methods import METHODS
from co_probe.models import MODELS
from co_probe.plots import PLOTS
from co_probe.probes import PROBES


def register() -> None:
    """Register the components of the study."""
    DATA.register("patches", "co_probe.studies.memorisation.data:patches")
    MODELS.register("two_layer_cnn", "co_probe.studies.memorisation.model:TwoLayerCNN")
    ATTACKS.register("shrink", "co_probe.studies.memorisation.attack:Shrink", label="shrinking")
    METHODS.register("shrink", "co_probe.studies.memorisation.method:Shrink", label="Shrink")
    PROBES.register(
        "memorisation",
        "co_probe.studies.memorisation.probe:Memorisation",
        about="clean and robust accuracy and loss on train and test images",
    )
    EXPORTS.register("memorisation", "co_probe.studies.memorisation.probe:memorisation")
    COMMANDS.register("memorisation", "co_probe.studies.memorisation.command:memorisation")
    PLOTS.register(
        "capacity",
        "co_probe.studies.memorisation.capacity_figure:FIGURE",
        about="clean and robust accuracy after the last epoch, against model.width (arXiv 2306.01271)",
    )
    PLOTS.register(
        "generalisation",
        "co_probe.studies.memorisation.generalisation_figure:FIGURE",
        about="clean and robust accuracy on train and test images",
    )
    PLOTS.register(
        "phases",
        "co_probe.studies.memorisation.phases_figure:FIGURE",
        about="signal and noise components of a run of the preset patches (arXiv 2306.01271)",
    )
    presets.register("patches", __name__)

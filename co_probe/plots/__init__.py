"""Figures from tidy tables. Knows pandas, matplotlib and seaborn; never torch."""

from co_probe.config.registry import Registry

PLOTS = Registry(
    "figure",
    {
        "deterioration": "co_probe.plots.deterioration:FIGURE",
        "gap": "co_probe.plots.gap:FIGURE",
        "perturbations": "co_probe.plots.perturbations:FIGURE",
        "robust-overfitting": "co_probe.plots.robust_overfitting:FIGURE",
        "spectrum": "co_probe.plots.spectrum:FIGURE",
        "steps": "co_probe.plots.steps:FIGURE",
        "trade-off": "co_probe.plots.trade_off:FIGURE",
    },
)

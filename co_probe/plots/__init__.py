"""Figures from tidy tables. Knows pandas, matplotlib and seaborn; never torch."""

from co_probe.config.registry import Registry

PLOTS = Registry(
    "figure",
    {
        "deterioration": "co_probe.plots.deterioration:KIND",
        "gap": "co_probe.plots.gap:KIND",
        "perturbations": "co_probe.plots.perturbations:KIND",
        "robust-overfitting": "co_probe.plots.robust_overfitting:KIND",
        "spectrum": "co_probe.plots.spectrum:KIND",
        "steps": "co_probe.plots.steps:KIND",
        "trade-off": "co_probe.plots.trade_off:KIND",
    },
)

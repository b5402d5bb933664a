"""Figures from tidy tables, by name. Uses pandas, matplotlib and seaborn, not torch."""

from co_probe.config.registry import Registry

PLOTS = Registry(
    "figure",
    {
        "deterioration": "co_probe.plots.deterioration:FIGURE",
        "gap": "co_probe.plots.gap:FIGURE",
        "indicators": "co_probe.plots.indicators:FIGURE",
        "lead": "co_probe.diagnosis.lead_figure:FIGURE",
        "perturbations": "co_probe.plots.perturbations:FIGURE",
        "robust-overfitting": "co_probe.plots.robust_overfitting:FIGURE",
        "spectrum": "co_probe.plots.spectrum:FIGURE",
        "steps": "co_probe.plots.steps:FIGURE",
        "trade-off": "co_probe.plots.trade_off:FIGURE",
    },
    about={
        "deterioration": "robust accuracy and strength (Figures 1b and 2a of arXiv 2010.08034); "
        "run `co-probe strength` first",
        "gap": "the gap to PGD-10 (2b, 5c)",
        "indicators": "all stored indicators of one run, in the order of their changes",
        "lead": "for each step indicator, the number of steps from its alarm to the collapse, and false alarms; needs "
        "several runs",
        "perturbations": "images and their perturbations before and during a collapse, else at the best and last "
        "epochs (1a)",
        "robust-overfitting": "training accuracy, test accuracy under PGD-20, gap (5)",
        "spectrum": "frequencies of one run's perturbations (arXiv 2206.08242)",
        "steps": "APART's step sizes (3)",
        "trade-off": "clean against PGD-20 accuracy at several ε (4), at each run's best epoch",
    },
)

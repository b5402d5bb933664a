"""Training methods, by name."""

from co_probe.config.registry import Registry

METHODS = Registry(
    "method",
    {
        "apart": "co_probe.methods.apart:APART",
        "apart-simple": "co_probe.methods.apart:APARTSimple",
        "atta": "co_probe.methods.atta:ATTA",
        "fgsm": "co_probe.methods.fgsm:FGSM",
        "fgsm-rs": "co_probe.methods.fgsm_rs:FGSMRS",
        "free": "co_probe.methods.free:Free",
        "grad-align": "co_probe.methods.grad_align:GradAlign",
        "n-fgsm": "co_probe.methods.n_fgsm:NFGSM",
        "pgd": "co_probe.methods.pgd:PGD",
        "s-fgsm": "co_probe.methods.s_fgsm:SFGSM",
        "shrink": "co_probe.studies.memorisation.method:Shrink",
        "standard": "co_probe.methods.standard:Standard",
        "trades": "co_probe.methods.trades:TRADES",
    },
)

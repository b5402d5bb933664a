"""Training methods, by name."""

from co_probe.registry import Registry

METHODS = Registry(
    "method",
    {
        "apart": "co_probe.methods.apart:APART",
        "apart-simple": "co_probe.methods.apart:APARTSimple",
        "fgsm": "co_probe.methods.fgsm:FGSM",
        "pgd": "co_probe.methods.pgd:PGD",
    },
)

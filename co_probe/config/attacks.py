"""Attacks with a name of their own; `pgdN`, `cwN` and their restarts are patterns (`co_probe.attacks.named`).

The table stands here, below the attacks, because importing those imports torch.
"""

from co_probe.config.registry import Registry

ATTACKS = Registry("attack")
ATTACKS.register("clean", "co_probe.attacks.base:Clean", label="clean")
ATTACKS.register("gaussian", "co_probe.attacks.noise:Gaussian", label="Gaussian")
ATTACKS.register("fgsm", "co_probe.attacks.fgsm:FGSM", label="FGSM")
ATTACKS.register("cw", "co_probe.attacks.margin:CW", label="C&W")
ATTACKS.register("aa", "co_probe.attacks.autoattack:AutoAttack", label="AutoAttack")

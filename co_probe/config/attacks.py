"""Registry of attacks, apart from the attacks themselves, whose import needs torch."""

from co_probe.config.registry import Registry

# N is the number of steps and R the number of restarts: pgd20, pgd50x10.
ATTACKS = Registry("attack")
ATTACKS.register("clean", "co_probe.attacks.base:Clean", label="clean")
ATTACKS.register("gaussian", "co_probe.attacks.noise:Gaussian", label="Gaussian")
ATTACKS.register("fgsm", "co_probe.attacks.fgsm:FGSM", label="FGSM")
ATTACKS.register("pgdN", "co_probe.attacks.pgd:PGD")
ATTACKS.register("pgdNxR", "co_probe.attacks.pgd:PGD")
ATTACKS.register("cw", "co_probe.attacks.margin:CW", label="C&W")
ATTACKS.register("cwN", "co_probe.attacks.margin:CW")
ATTACKS.register("cwNxR", "co_probe.attacks.margin:CW")
ATTACKS.register("square", "co_probe.attacks.square:Square", label="Square")
ATTACKS.register("aa", "co_probe.attacks.autoattack:AutoAttack", label="AutoAttack")

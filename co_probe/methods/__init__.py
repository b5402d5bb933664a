"""Training methods, by name.

The order of registration determines colours in figures (`co_probe.plots.style`): append new methods.
"""

from co_probe.config.registry import Registry

METHODS = Registry("method")
METHODS.register("fgsm", "co_probe.methods.fgsm:FGSM", label="FGSM")
METHODS.register("apart-simple", "co_probe.methods.apart:APARTSimple", label="APART-Simple")
METHODS.register("apart", "co_probe.methods.apart:APART", label="APART")
METHODS.register("pgd", "co_probe.methods.pgd:PGD", label="PGD")
METHODS.register("n-fgsm", "co_probe.methods.n_fgsm:NFGSM", label="N-FGSM")
METHODS.register("grad-align", "co_probe.methods.grad_align:GradAlign", label="GradAlign")
METHODS.register("standard", "co_probe.methods.standard:Standard", label="Standard")
METHODS.register("free", "co_probe.methods.free:Free", label="Free")
METHODS.register("fgsm-rs", "co_probe.methods.fgsm_rs:FGSMRS", label="F+FGSM")
METHODS.register("s-fgsm", "co_probe.methods.s_fgsm:SFGSM", label="S+FGSM")
METHODS.register("trades", "co_probe.methods.trades:TRADES", label="TRADES")
METHODS.register("atta", "co_probe.methods.atta:ATTA", label="ATTA")
METHODS.register("zero-grad", "co_probe.methods.zero_grad:ZeroGrad", label="ZeroGrad")
METHODS.register("multi-grad", "co_probe.methods.multi_grad:MultiGrad", label="MultiGrad")
METHODS.register("lp-fgsm", "co_probe.methods.lp_fgsm:LpFGSM", label="lp-FGSM")
METHODS.register("sora", "co_probe.methods.sora:SORA", label="SORA")
METHODS.register("elle", "co_probe.methods.elle:ELLE", label="ELLE")
METHODS.register("elle-a", "co_probe.methods.elle:ELLEA", label="ELLE-A")
METHODS.register("aaer", "co_probe.methods.aaer:AAER", label="AAER")
METHODS.register("nuat", "co_probe.methods.nuat:NuAT", label="NuAT")
METHODS.register("atas", "co_probe.methods.atas:ATAS", label="ATAS")
METHODS.register("fgsm-pgi", "co_probe.methods.fgsm_pgi:FGSMPGI", label="FGSM-PGI")
METHODS.register("fast-adv-plus", "co_probe.methods.fast_adv_plus:FastAdvPlus", label="FastAdv+")

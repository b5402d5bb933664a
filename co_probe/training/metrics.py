"""What a run measures of itself after each epoch."""

from functools import cache

from torch import Tensor, nn

from co_probe import attacks
from co_probe.inference.evaluation import Generator, Outcome, outcome, perturb
from co_probe.inference.execution import compiling, input_gradients_only
from co_probe.methods.base import Method
from co_probe.numerics.rng import make_rng
from co_probe.numerics.statistics import mean_interval


def measure(model: nn.Module, method: Method, x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    """Accuracies on the probe set's test images, in [0, 1], and the gap from FGSM to PGD-10, in nats.

    `clean`, `fgsm`, `pgd10`: accuracy on the images, and under FGSM and PGD-10 in the method's ball; `own`: under the
    method's own generator; `gap`: mean L(δ_PGD-10) − L(δ_FGSM), with its 95% interval. Made in eval mode; nothing
    is moved.
    """

    @cache  # a method's own attack is often one of the others
    def under(generator: Generator) -> Outcome:
        # The same draws every epoch: what changes from epoch to epoch is then the model, not the luck.
        with compiling(model), input_gradients_only(model):
            delta = perturb(model, generator, x, y, make_rng(x.device, seed, "probe"))
            return outcome(model, x, y, delta, method.bounds)

    with compiling(model):
        clean = outcome(model, x, y)
    fgsm, pgd10 = (
        under(attacks.named_attack(name, method.epsilon, method.norm, method.bounds)) for name in ("fgsm", "pgd10")
    )
    gap, low, high = mean_interval((pgd10.loss - fgsm.loss).cpu().numpy())
    return {
        "clean": clean.accuracy,
        "fgsm": fgsm.accuracy,
        "pgd10": pgd10.accuracy,
        "own": under(method.attack or method.perturb).accuracy,
        "gap": gap,
        "gap_low": low,
        "gap_high": high,
    }

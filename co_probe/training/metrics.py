"""What a run measures of itself after each epoch."""

from functools import cache

from torch import Tensor, nn

from co_probe import attacks
from co_probe.inference.evaluation import Generator, Outcome, outcome, perturb
from co_probe.inference.execution import compiling, input_gradients_only
from co_probe.numerics.rng import make_rng
from co_probe.numerics.statistics import mean_interval


def measure(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    own: Generator | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Measure the robustness of a model after an epoch, in eval mode; nothing of the model is changed.

    Args:
        model: Classifier.
        x: Test images of the probe set, (n, C, H, W).
        y: Their classes, (n,).
        epsilon: Norm bound, in pixel units.
        norm: `linf` or `l2`.
        bounds: Least and greatest pixel value.
        own: The training attack, (model, x, y, rng=None) -> δ; None if it is unknown.
        seed: Seed of random starts, the same at every epoch: what changes is then the model, not the luck.

    Returns:
        `clean`, `fgsm`, `pgd10`: accuracy on the images, and under FGSM and PGD-10, in [0, 1]; `own`: under the
        training attack, absent if it is unknown; `gap`: mean L(δ_PGD-10) − L(δ_FGSM) in nats, with its 95% interval
        `gap_low`, `gap_high`.
    """

    @cache  # the training attack is often one of the others
    def under(generator: Generator) -> Outcome:
        with compiling(model), input_gradients_only(model):
            delta = perturb(model, generator, x, y, make_rng(x.device, seed, "probe"))
            return outcome(model, x, y, delta, bounds)

    with compiling(model):
        clean = outcome(model, x, y)
    fgsm, pgd10 = (under(attacks.named_attack(name, epsilon, norm, bounds)) for name in ("fgsm", "pgd10"))
    gap, low, high = mean_interval((pgd10.loss - fgsm.loss).cpu().numpy())
    return {
        "clean": clean.accuracy,
        "fgsm": fgsm.accuracy,
        "pgd10": pgd10.accuracy,
        **({} if own is None else {"own": under(own).accuracy}),
        "gap": gap,
        "gap_low": low,
        "gap_high": high,
    }

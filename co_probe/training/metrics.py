"""Metrics of each epoch."""

from dataclasses import asdict, dataclass, replace
from functools import cache

from torch import Tensor

from co_probe import attacks
from co_probe.attacks.base import Model
from co_probe.inference.evaluation import Generator, Outcome, outcome, perturb
from co_probe.inference.forward import Forward
from co_probe.numerics.rng import make_rng
from co_probe.numerics.statistics import mean_interval


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Robustness of a model on the test images of the probe set.

    Attributes:
        clean: Accuracy without a perturbation, in [0, 1].
        fgsm: Accuracy under FGSM.
        pgd10: Accuracy under PGD-10.
        train_attack: Accuracy under the training attack; None if unknown.
        gap: Mean L(δ_PGD-10) − L(δ_FGSM), in nats.
        gap_low: Lower end of its 95% interval.
        gap_high: Upper end of its 95% interval.
    """

    clean: float
    fgsm: float
    pgd10: float
    train_attack: float | None = None
    gap: float
    gap_low: float
    gap_high: float

    def to_dict(self) -> dict[str, float]:
        """Return the known numbers, for storage."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class EpochMetrics(Robustness):
    """Metrics of one epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        learning_rate: Learning rate of the last step.
        train_loss: Mean training loss on perturbed images, in nats.
        train_accuracy: Accuracy on the same images, in [0, 1].
        seconds: Duration of training, without measurements.
        guard_step: Step at which the guard switched to its remedy, 0 before; None without a guard.
        validation: Robustness on validation images; None without any.
        ema: Robustness of averaged weights; None without any.
        ema_validation: Robustness of averaged weights on validation images; None without any.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    seconds: float
    guard_step: float | None = None
    validation: Robustness | None = None
    ema: Robustness | None = None
    ema_validation: Robustness | None = None

    def to_dict(self) -> dict[str, float]:
        """Return the known numbers, for storage.

        Numbers on validation images have the prefix `validation_`, those of averaged weights `ema_` before it.
        """
        numbers = {name: value for name, value in super().to_dict().items() if isinstance(value, int | float)}
        del numbers["epoch"]
        for part in ("validation", "ema", "ema_validation"):
            if (robustness := getattr(self, part)) is not None:
                numbers |= {f"{part}_{name}": value for name, value in robustness.to_dict().items()}
        return numbers


def measure(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    train_attack: Generator | None = None,
    seed: int = 0,
) -> Robustness:
    """Measure the robustness of a model in eval mode, without changing it.

    Args:
        model: Classifier, an `nn.Module` or a `Forward`.
        x: Test images of the probe set, (n, C, H, W).
        y: Classes, (n,).
        epsilon: Norm bound, in pixel units.
        norm: `linf` or `l2`.
        bounds: Least and greatest pixel value.
        train_attack: The training attack, (model, x, y, rng=None) -> δ; None if unknown.
        seed: Seed of random starts, the same at every epoch, so that changes are due to the model.
    """
    forward = replace(Forward.of(model).in_eval(), weight_gradients=False)

    @cache  # the training attack may equal another attack
    def under(generator: Generator) -> Outcome:
        delta = perturb(forward, generator, x, y, make_rng(x.device, seed, "probe"))
        return outcome(forward, x, y, delta, bounds)

    clean = outcome(forward, x, y)
    fgsm, pgd10 = (under(attacks.named_attack(name, epsilon, norm, bounds)) for name in ("fgsm", "pgd10"))
    gap, low, high = mean_interval((pgd10.loss - fgsm.loss).cpu().numpy())
    return Robustness(
        clean=clean.accuracy,
        fgsm=fgsm.accuracy,
        pgd10=pgd10.accuracy,
        train_attack=None if train_attack is None else under(train_attack).accuracy,
        gap=gap,
        gap_low=low,
        gap_high=high,
    )

"""Metrics that are measured after each epoch."""

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
        train_attack: Accuracy under the training attack, None if it is unknown.
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
        """Return what is stored of an epoch: its numbers, without those that are unknown."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class EpochMetrics(Robustness):
    """Metrics of one epoch.

    Attributes:
        epoch: Its number, from 1.
        learning_rate: The learning rate of its last step.
        train_loss: Mean loss on the perturbed images as they were trained on, in nats.
        train_accuracy: Accuracy on the same images, in [0, 1].
        seconds: Duration of its training, without the measurement.
        guard_step: Step at which the guard has switched to its remedy, 0 before; None without a guard.
        validation: Robustness on the validation images; None without any.
        ema: Robustness of the averaged weights; None without any.
        ema_validation: The same on the validation images.
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
        """Return what is stored of an epoch.

        Numbers of validation images have the prefix `validation_`, and those of averaged weights `ema_` before that.
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
    """Measure the robustness of a model after an epoch, in eval mode; nothing of the model is changed.

    Args:
        model: Classifier, an `nn.Module` or a `Forward`.
        x: Test images of the probe set, (n, C, H, W).
        y: Their classes, (n,).
        epsilon: Norm bound, in pixel units.
        norm: `linf` or `l2`.
        bounds: Least and greatest pixel value.
        train_attack: The training attack, (model, x, y, rng=None) -> δ; None if it is unknown.
        seed: Seed of random starts, the same at every epoch: what changes is then the model, not the luck.
    """
    forward = replace(Forward.of(model).in_eval(), weight_gradients=False)

    @cache  # the training attack is often one of the others
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

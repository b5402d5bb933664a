"""Perturbations for indicators, from a tensor, an attack, or an attack's name."""

from torch import Tensor

from co_probe.attacks.base import Bounds, Model, Perturbation, check_input
from co_probe.attacks.named import named_attack
from co_probe.inference.evaluation import perturb
from co_probe.numerics.rng import make_rng

AttackLike = str | Perturbation | Tensor


def make_perturbation(
    attack: AttackLike,
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    seed: int = 0,
) -> Tensor:
    """Make δ of `attack` on `model` in eval mode, batch by batch.

    Args:
        attack: An attack's name (`co_probe.attacks.named`), to which `epsilon`, `norm` and `bounds` apply; an attack
            object, which has its own; or δ itself, of the shape of `x`.
        model: Takes (B, C, H, W) images and returns (B, classes) logits.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).
        epsilon: Norm bound of a named attack, in pixel units of a [0, 1] image.
        norm: The norm that `epsilon` bounds, `linf` or `l2`.
        bounds: Least and greatest value of a pixel, for a named attack.
        seed: The same seed gives the same random starts, on every model.

    Returns:
        δ, of the shape of `x`.

    Raises:
        ValueError: If a given δ has another shape than `x`.
        UserError: If there is no attack of that name, or the images are not within the bounds of the attack.
    """
    if isinstance(attack, Tensor):
        if attack.shape != x.shape:
            raise ValueError(
                f"perturbations of shape {tuple(attack.shape)} do not fit images of shape {tuple(x.shape)}"
            )
        return attack
    made = named_attack(attack, epsilon, norm, bounds)
    check_input(x, y, None, made.bounds)
    return perturb(model, made, x, y, make_rng(x.device, seed, "probe"))

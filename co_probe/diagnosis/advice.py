"""Measures to try next, by verdict, each with its source."""

from collections.abc import Sequence
from dataclasses import dataclass

from co_probe.diagnosis.verdict import OVERFITTED, Verdict


@dataclass(frozen=True)
class Advice:
    """A measure to try.

    Attributes:
        text: The measure in one sentence, and why.
        source: Authors and year of the publication; may be empty.
        url: Address of the publication; may be empty.
        against: Mechanism that it counters, a key of `co_probe.config.indicators.MECHANISMS`.
    """

    text: str
    source: str = ""
    url: str = ""
    against: str = ""


MOST = 4
"""Number of measures in a diagnosis besides the best checkpoint; docs/diagnosis.md has more."""

GUARD = Advice(
    'Train with a guard, which switches to PGD-2 at the first sign of a collapse (--guard, guard="pgd2"), or watch a '
    "loop of your own with co_probe.Monitor."
)
WARM_UP = Advice(
    "Warm ε up: start with small perturbations and grow them over the first epochs.",
    "Liu et al. 2020",
    "https://arxiv.org/abs/2006.08403",
)
STRONGER_EVALUATION = Advice(
    "Confirm the final model with AutoAttack on all test images; accuracy under PGD is an upper bound of robustness.",
    "Croce and Hein 2020",
    "https://arxiv.org/abs/2003.01690",
)
AGAINST_COLLAPSE = (
    GUARD,
    Advice(
        "N-FGSM: add noise of up to 2ε before the step and do not clip the perturbation; costs nothing.",
        "de Jorge et al. 2022",
        "https://arxiv.org/abs/2202.01181",
        "decay",
    ),
    Advice(
        "APART: learn the initial perturbation and the step size of each layer, so that FGSM does not decay.",
        "Li et al. 2020",
        "https://arxiv.org/abs/2010.08034",
        "decay",
    ),
    Advice(
        "GradAlign: penalise input gradients that turn within the ε-ball; about three times the cost of FGSM.",
        "Andriushchenko and Flammarion 2020",
        "https://arxiv.org/abs/2007.02617",
        "turning",
    ),
    Advice(
        "ELLE: penalise the local linearity error of the loss, without a second backward pass.",
        "Abad Rocamora et al. 2024",
        "https://arxiv.org/abs/2401.11618",
        "turning",
    ),
    Advice(
        "Train with PGD of several steps, if its cost is acceptable.",
        "Madry et al. 2018",
        "https://arxiv.org/abs/1706.06083",
    ),
    WARM_UP,
    Advice(
        "DOM: leave out, or augment, training images whose clean loss has become low.",
        "Lin et al. 2024",
        "https://arxiv.org/abs/2310.08847",
        "memorisation",
    ),
)
AGAINST_ROBUST_OVERFITTING = (
    Advice(
        "Stop early, at the best PGD accuracy on held-out images.",
        "Rice et al. 2020",
        "https://arxiv.org/abs/2002.11569",
    ),
    Advice(
        "Average the weights over training steps.",
        "Chen et al. 2021",
        "https://openreview.net/forum?id=qZzy5urZw9",
    ),
    Advice(
        "Perturb the weights too (AWP), which flattens the loss landscape.",
        "Wu et al. 2020",
        "https://arxiv.org/abs/2004.05884",
    ),
    Advice(
        "Augment the images (CutMix) together with weight averaging.",
        "Rebuffi et al. 2021",
        "https://arxiv.org/abs/2103.01946",
    ),
)
AGAINST_DIVERGENCE = (
    Advice("Lower the learning rate or lengthen its warm-up, and clip the norm of the gradient."),
    WARM_UP,
)
NEVER_ROBUST = (
    Advice("Check the units of ε (pixels of a [0, 1] image) and that perturbed images are clipped to that range."),
    Advice("Check that the attack of the evaluation sees the same normalisation as the training."),
)
MASKED = (
    Advice(
        "Evaluate with attacks that need no gradient, random starts and ε large enough to reach chance.",
        "Athalye et al. 2018; Carlini et al. 2019",
        "https://arxiv.org/abs/1802.00420",
    ),
    STRONGER_EVALUATION,
)
UNDECIDED = (
    Advice("Judge on five epochs or more, with accuracy under PGD and clean accuracy at each, on 1,000 test images."),
)

BY_KIND = {
    "healthy": (STRONGER_EVALUATION,),
    "catastrophic": AGAINST_COLLAPSE,
    "recovered": AGAINST_COLLAPSE,
    "robust-overfitting": AGAINST_ROBUST_OVERFITTING,
    "diverged": AGAINST_DIVERGENCE,
    "never-robust": (*NEVER_ROBUST, WARM_UP),
    "masked": MASKED,
    "undecided": UNDECIDED,
}


def advice_for(verdict: Verdict, mechanisms: Sequence[str] = ()) -> tuple[Advice, ...]:
    """Return measures to try after a verdict, the most useful first.

    Args:
        verdict: Verdict on the run.
        mechanisms: Explanations that the evidence supports; measures against them come first.

    Returns:
        Measures; for a collapse and for robust overfitting, the best checkpoint comes first.
    """
    general = tuple(sorted(BY_KIND[verdict.kind], key=lambda each: each.against not in mechanisms))[:MOST]
    if OVERFITTED in verdict.reasons:  # no epoch to return to: suggest another method, then common mistakes
        return (*AGAINST_COLLAPSE[:MOST], *NEVER_ROBUST)
    if verdict.kind not in ("catastrophic", "recovered", "diverged", "robust-overfitting"):
        return general
    if verdict.best_epoch is None or not verdict.last < verdict.best:
        return general
    best = Advice(
        f"Use the checkpoint of epoch {verdict.best_epoch} ({100 * verdict.best:.1f}% under PGD, the best); report its "
        "accuracy on images that had no part in this choice."
    )
    return (best, *general)

"""Descriptions of checks for masked gradients; without torch, so that stored checks can be read."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Result of one check for masked gradients.

    Attributes:
        quantity: Measured quantity, a key of `NAMES`.
        value: Accuracy, or share of images, in [0, 1].
        low: Lower end of its 95% Wilson interval.
        high: Upper end of its 95% Wilson interval.
        suspicious: Whether it contradicts the robustness under PGD.
    """

    quantity: str
    value: float
    low: float
    high: float
    suspicious: bool = False


NAMES = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd10": "PGD-10",
    "vanishing": "correct with a zero gradient",
    "noise": "worst of 10 random perturbations",
    "margin": "PGD on the margin",
    "query": "Square (no gradients)",
    "steps": "PGD with the best step size",
    "large": "PGD with a large ε",
}
"""Labels of the quantities: accuracies, and the share of images whose gradient is zero."""

SENTENCES = {
    "vanishing": "the input gradient is exactly zero on {value} of the images, which PGD-10 leaves correct because it "
    "cannot move them",
    "noise": "random noise leaves {value} of the images correct, fewer than PGD-10 ({pgd10})",
    "margin": "PGD on the margin of the logits leaves {value} correct, PGD-10 on cross-entropy {pgd10}: the loss is "
    "saturated",
    "query": "the query attack Square, which uses no gradient, leaves {value} correct, PGD-10 {pgd10}",
    "steps": "PGD with another step size leaves {value} correct, PGD-10 {pgd10}",
    "large": "accuracy is still {value} under PGD with an ε at which every image can become uniform grey",
}
"""Sentence per check, to be filled with the percentages of `value` and of other quantities."""


def evidence(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Describe the suspicious findings on one model, for `co_probe.verdict(masking=...)`.

    Args:
        findings: All findings on the model.

    Returns:
        One clause per suspicious finding; empty if there is no sign of masked gradients.
    """
    all_findings = tuple(findings)
    percents = {each.quantity: f"{100 * each.value:.1f}%" for each in all_findings}
    return tuple(
        SENTENCES[each.quantity].format(value=percents[each.quantity], **percents)
        for each in all_findings
        if each.suspicious
    )

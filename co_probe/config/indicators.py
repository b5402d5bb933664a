"""Labels of indicators and their direction at a collapse; does not import torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from co_probe.numerics.change import CLEAR, Change, halfway


@dataclass(frozen=True, kw_only=True)
class Indicator:
    """Properties of an indicator in figures and diagnoses.

    Attributes:
        label: Name in figures and texts.
        direction: 1 if it rises at a collapse, −1 if it falls, 0 if sources disagree.
        log: Whether changes are measured in its logarithm, because it spans orders of magnitude.
        floor: Least relevant change, in its unit; with `log`, in powers of ten.
        baseline: Whether it is one of the trivial baselines that every training log has.
        mechanism: Key of `MECHANISMS` that it is evidence for; empty for none.
    """

    label: str
    direction: int
    log: bool = False
    floor: float = 0.01
    baseline: bool = False
    mechanism: str = ""

    def judged(self, values: ArrayLike) -> NDArray[np.float64]:
        """Transform values to the scale of changes: logarithm to base 10 if `log`, NaN where undefined."""
        array = np.asarray(values, np.float64)
        return np.log10(np.where(array > 0, array, np.nan)) if self.log else array

    def change(self, at: ArrayLike, values: ArrayLike, span: tuple[int, int], *, clear: float = CLEAR) -> Change | None:
        """Find when the indicator had made half of its change at a collapse; None if it did not change.

        Args:
            at: Time of each value, in epochs, increasing, (n,).
            values: Its values, (n,); NaN where not measured.
            span: First and last epoch of the collapse.
            clear: Least change, in standard deviations of the noise before.
        """
        start, end = span[0] - 1, span[1]
        return halfway(at, self.judged(values), start, end, direction=self.direction, floor=self.floor, clear=clear)

    def unjudged(self, value: float) -> float:
        """Invert `judged` for one value."""
        return float(10**value) if self.log else value


MECHANISMS = {
    "decay": "perturbations decay",
    "turning": "input gradients turn within the ε-ball",
    "label": "the perturbation becomes a label signal",
    "memorisation": "training images are memorised",
}
"""Explanations of a collapse, by name."""

STEP_INDICATORS = {
    "pert_alignment": Indicator(label="PertAlign (cosine)", direction=-1, mechanism="turning"),
    "sign_agreement": Indicator(label="sign agreement", direction=-1, mechanism="turning"),
    "linearity": Indicator(label="linearity ratio", direction=-1, mechanism="turning"),
    "abnormal": Indicator(label="abnormal examples (share)", direction=1, mechanism="decay"),
    "abnormal_change": Indicator(label="logit change (abnormal)", direction=1, log=True, floor=0.1),
    "loss_gain": Indicator(label="loss gain of the step (nats)", direction=-1, mechanism="decay"),
    "participation": Indicator(label="participation ratio", direction=-1),
    "entropy_gap": Indicator(label="entropy gap (nats)", direction=0),
    "zero_gradients": Indicator(label="zero gradients (share)", direction=1),
    "train_accuracy": Indicator(label="training accuracy", direction=1, baseline=True),
    "loss": Indicator(label="training loss (nats)", direction=-1, floor=0.02, baseline=True),
}
"""Series over optimizer steps, by their names in `/steps` of an epoch's file."""

EPOCH_INDICATORS = {
    ("gap", "gap"): Indicator(label="gap to PGD-10 (nats)", direction=1, log=True, floor=0.1, mechanism="decay"),
    ("strength", "strength"): Indicator(label="strength (reference acc.)", direction=1, mechanism="decay"),
    ("alignment", "alignment"): Indicator(label="gradient alignment (cosine)", direction=-1, mechanism="turning"),
    ("curvature", "curvature"): Indicator(label="curvature", direction=1, log=True, floor=0.1, mechanism="turning"),
    ("local-linearity", "linearity-error"): Indicator(
        label="local linearity error (nats²)", direction=1, log=True, floor=0.1, mechanism="turning"
    ),
    ("distortion", "distortion"): Indicator(label="boundary distortion (share)", direction=1, mechanism="turning"),
    ("gradient-norm", "gradient-norm"): Indicator(label="input gradient norm", direction=1, log=True, floor=0.1),
    ("label-signal", "raised"): Indicator(label="label signal (share)", direction=1, floor=0.03, mechanism="label"),
    ("low-loss", "low-loss"): Indicator(label="low-loss images (share)", direction=1, mechanism="memorisation"),
}
"""Quantities of probes, by the probe's name and the quantity."""

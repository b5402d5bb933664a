"""Indicators: functions that compute one number, or one number per example, from a model and images.

They work on any `nn.Module` and on tensors; `co_probe.probes` evaluates them at every epoch of a run.
"""

from co_probe.indicators.abnormal import AbnormalExamples, abnormal_examples, logit_change, loss_gain
from co_probe.indicators.alignment import AlignmentResult, alignment
from co_probe.indicators.curvature import curvature
from co_probe.indicators.distortion import DistortionResult, distortion
from co_probe.indicators.gap import GapResult, gap
from co_probe.indicators.gradient_norm import gradient_norm, input_gradients
from co_probe.indicators.label_signal import LabelSignal, label_signal
from co_probe.indicators.linearity import linearity_ratio
from co_probe.indicators.local_linearity import local_linearity_error
from co_probe.indicators.low_loss import low_loss
from co_probe.indicators.masking import MaskingResult, masking
from co_probe.indicators.participation import entropy_gap, participation_ratio
from co_probe.indicators.pert_alignment import pert_alignment, sign_agreement
from co_probe.indicators.spectrum import low_frequency_share, spectrum
from co_probe.indicators.strength import StrengthResult, noise_accuracy, strength

__all__ = [
    "AbnormalExamples",
    "AlignmentResult",
    "DistortionResult",
    "GapResult",
    "LabelSignal",
    "MaskingResult",
    "StrengthResult",
    "abnormal_examples",
    "alignment",
    "curvature",
    "distortion",
    "entropy_gap",
    "gap",
    "gradient_norm",
    "input_gradients",
    "label_signal",
    "linearity_ratio",
    "local_linearity_error",
    "logit_change",
    "loss_gain",
    "low_frequency_share",
    "low_loss",
    "masking",
    "noise_accuracy",
    "participation_ratio",
    "pert_alignment",
    "sign_agreement",
    "spectrum",
    "strength",
]

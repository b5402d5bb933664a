"""Registry of probes: names and locations, as text.

It is in `config`, below the run format, because `StoredRun.frame` selects tables by settings of a probe.
"""

from co_probe.config.registry import Registry

PROBES = Registry(
    "probe",
    {
        "accuracy": "co_probe.probes.accuracy:Accuracy",
        "alignment": "co_probe.probes.alignment:Alignment",
        "curvature": "co_probe.probes.curvature:Curvature",
        "distortion": "co_probe.probes.distortion:Distortion",
        "eval": "co_probe.probes.eval:Eval",
        "gap": "co_probe.probes.gap:Gap",
        "gradient-norm": "co_probe.probes.gradient_norm:GradientNorm",
        "label-signal": "co_probe.probes.label_signal:LabelSignal",
        "local-linearity": "co_probe.probes.local_linearity:LocalLinearity",
        "low-loss": "co_probe.probes.low_loss:LowLoss",
        "masking": "co_probe.probes.masking:Masking",
        "spectrum": "co_probe.probes.spectrum:Spectrum",
        "strength": "co_probe.probes.strength:Strength",
    },
    about={
        "accuracy": "accuracy on clean images, under FGSM and under PGD-10",
        "alignment": "size of the input gradient, and its cosine within the ε-ball",
        "curvature": "largest eigenvalues of the input Hessian of the loss",
        "distortion": "images that FGSM leaves correct, and smaller steps the same way do not",
        "gradient-norm": "size of the input gradient, and how often it is zero",
        "label-signal": "whether perturbations tell the model the label that they were made for",
        "local-linearity": "how far the loss is from linear within the ε-ball",
        "low-loss": "share of images with a low loss",
        "masking": "attacks that need no gradient, other losses, step sizes and a large ε, at the best and the last "
        "epoch: is the robustness real?",
        "spectrum": "which frequencies perturbations are made of",
    },
)

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
        "alignment": "cosine similarity of input gradients within the ε-ball, and their norm",
        "curvature": "largest eigenvalues of the input Hessian of the loss",
        "distortion": "boundary distortion: images that smaller steps fool and the full FGSM step does not",
        "gradient-norm": "norm of the input gradient, and share of zeros",
        "label-signal": "how much perturbations reveal their label to the model",
        "local-linearity": "local linearity error of the loss within the ε-ball",
        "low-loss": "share of images with a low loss",
        "masking": "checks for masked gradients at the best and the last epoch: gradient-free attacks, other losses "
        "and step sizes, a large ε",
        "spectrum": "frequencies of the perturbations",
    },
)

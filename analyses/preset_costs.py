"""What the presets cost on GPUs, by arithmetic from floating-point operations and one measured rate.

    python analyses/preset_costs.py [--tflops 130] [--gpus 8]

seconds of an epoch = images × passes × operations of a forward pass / rate. A method's passes per step are in units of
a forward pass, as `co-probe bench` counts them. The rate is that of PGD-2 training of PreActResNet-18 on CIFAR-10 on
one NVIDIA H200 in bfloat16, compiled: 50,000 images × 7 passes × 1.11 GFLOP in 3.0 s (figures/cifar10-jpeg/metrics.csv,
the last epoch of fgsm-guard, which had the GPU to itself).
"""

import argparse
from functools import partial

import torch

from co_probe.benchmarks.measures import flops
from co_probe.config import Config
from co_probe.config.presets import configure
from co_probe.models import MODELS
from co_probe.reporting.tables import markdown_table

PASSES = {"fgsm": 5, "apart": 5, "pgd": 23}  # PGD with ten steps
IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257, "imagenet": 1_281_167}
CLASSES = {"cifar100": 100, "imagenet": 1000}
PRESETS = ("cifar10-30", "cifar10", "cifar10-200", "cifar10-wrn", "cifar100", "svhn", "imagenet")


def stages(config: Config) -> list[tuple[int, int]]:
    """Return (epochs, side of the images in pixels) of each resolution stage."""
    return [(stage.epochs, stage.crop) for stage in config.resolution_stages] or [(config.epochs, 32)]


def costs(preset: str, tflops: float, gpus: int) -> dict[str, str]:
    """Return a row: operations, hours of a run on one GPU, and what it reads and sends.

    Args:
        preset: Name of the preset.
        tflops: Sustained 10¹² operations per second of one GPU.
        gpus: Number of GPUs of one run, for what has to be read per second.
    """
    config = configure(preset, "fgsm")
    data = config.data.name.partition(":")[0]
    model = MODELS.make(config.model.name, 3, CLASSES.get(data, 10), (0.5,) * 3, (0.25,) * 3, **config.model.settings)
    weights = sum(parameter.numel() for parameter in model.parameters())
    forward = {side: flops(partial(model.eval(), torch.zeros(1, 3, side, side))) for _, side in stages(config)}
    work = sum(epochs * IMAGES[data] * forward[side] for epochs, side in stages(config))
    fastest = max(tflops * 1e12 / (PASSES["fgsm"] * each) for each in forward.values())
    return {
        "preset": preset,
        "weights (M)": f"{weights / 1e6:.0f}",
        "GFLOP a forward pass": ", ".join(f"{each / 1e9:.1f}" for each in forward.values()),
        **{f"hours, {name}": f"{passes * work / (tflops * 1e12) / 3600:.2g}" for name, passes in PASSES.items()},
        f"images/s, fgsm, {gpus} GPUs": f"{gpus * fastest:,.0f}",
        "GB of weights and momenta": f"{12 * weights / 1e9:.2f}",
    }


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=130.0, help="of one GPU [default: %(default)s]")
    parser.add_argument("--gpus", type=int, default=8, help="[default: %(default)s]")
    arguments = parser.parse_args()
    rows = [costs(preset, arguments.tflops, arguments.gpus) for preset in PRESETS]
    title = f"{arguments.tflops:g} TFLOP/s for each GPU"
    print(markdown_table(title, list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    main()

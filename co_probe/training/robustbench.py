"""RobustBench: import of its models, and export for its `benchmark`."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from co_probe.config.plugins import is_own
from co_probe.errors import UserError
from co_probe.files.atomic import write_atomic
from co_probe.models.robustbench import load_published, split_name
from co_probe.runs import Run
from co_probe.runs.checkpoints import export
from co_probe.training.importing import import_run

EPSILONS = {"Linf": 8 / 255, "L2": 0.5}
NORMS = {"linf": "Linf", "l2": "L2"}
SCRIPT = '''"""{name} for RobustBench: `load_model` returns the network, and this script evaluates it.

    python {script} [N]     the first N images of {dataset}; all 10,000 if N is not given

Needs robustbench, co-probe and {weights}, which lies beside this file.
"""

import sys
from pathlib import Path

import torch
from co_probe.runs.checkpoints import load_reference

MODEL_NAME = {name!r}
DATASET, THREAT_MODEL, EPSILON = {dataset!r}, {threat!r}, {epsilon!r}


def load_model(device="cpu"):
    """The network on images in [0, 1], in eval mode."""
    return load_reference(Path(__file__).with_name({weights!r}), device).model


if __name__ == "__main__":
    from robustbench.eval import benchmark

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clean, robust = benchmark(
        load_model(device),
        n_examples=int(sys.argv[1]) if len(sys.argv) > 1 else 10_000,
        dataset=DATASET,
        threat_model=THREAT_MODEL,
        eps=EPSILON,
        model_name=MODEL_NAME,
        device=device,
        batch_size=250,
        to_disk=True,
    )
    print(f"{{MODEL_NAME}}: clean {{clean:.2%}}, AutoAttack {{robust:.2%}}")
'''


def import_robustbench(
    name: str,
    *,
    out: str | Path | None = None,
    test: Any = None,
    epsilon: float | None = None,
    images: int = 1000,
    folder: str | Path = "models",
    check: bool = True,
    device: str = "auto",
    report: Callable[[str], None] | None = None,
) -> Run:
    """Import a model of RobustBench, with weights on the disk, as a run; return an existing run.

    Args:
        name: `[DATASET/THREAT/]NAME`, `Wong2020Fast` or `cifar10/L2/Rice2020Overfitting`.
        out: Folder of the run; `runs/NAME` if None.
        test: Test images and labels, as `co_probe.import_run` takes them; the data set of the model if None.
        epsilon: Norm bound; if None, that of RobustBench: 8/255, or 0.5 for L2.
        images: Number of test images.
        folder: RobustBench's folder of weights, its `model_dir`.
        check: Reject a model whose accuracy on clean images is at chance.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        report: Called with each line of information; prints to standard error if None.

    Raises:
        UserError: RobustBench is not installed, the weights are not on the disk, or the images do not fit.
    """
    dataset, threat, model = split_name(name)
    out = Path(out) if out is not None else Path("runs") / model
    if (out / "run.h5").exists():
        return Run(out)
    network = load_published(name, folder)
    with tempfile.TemporaryDirectory() as place:
        torch.save(network.state_dict(), Path(place) / "epoch_1.pt")
        return import_run(
            Path(place) / "epoch_1.pt",
            model=f"robustbench:{dataset}/{threat}/{model}",
            test=dataset if test is None else test,
            epsilon=EPSILONS[threat] if epsilon is None else epsilon,
            norm=threat.lower(),
            out=out,
            images=images,
            method=model,
            check=check,
            device=device,
            report=report,
        )


def export_robustbench(run: Run, epoch: int, out: str | Path) -> list[Path]:
    """Write a folder with a checkpoint and a script whose `load_model` returns a model for RobustBench's `benchmark`.

    Args:
        run: The run, of CIFAR-10 or CIFAR-100.
        epoch: Number of the epoch.
        out: Folder to create.

    Returns:
        The files: the weights, as `co_probe.export` writes them, and the script.

    Raises:
        UserError: The run has other images, or its network has no importable name.
    """
    info, out = run.info, Path(out)
    dataset = {10: "cifar10", 100: "cifar100"}.get(len(info.classes))
    if dataset is None or info.shape != (3, 32, 32) or info.bounds != (0.0, 1.0):
        raise UserError(
            f"{run.name}: RobustBench evaluates CIFAR-10 and CIFAR-100, and this run has images of shape {info.shape} "
            f"in {len(info.classes)} classes"
        )
    if info.model.foreign or is_own(info.model.name):
        raise UserError(
            f"{run.name}: the network {info.model.name} is code of your own: hand benchmark the module of "
            "Run.load_model(epoch)"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from error
    name = "".join(letter if letter.isalnum() else "_" for letter in f"{run.name}_epoch{epoch}").strip("_")
    weights, script = out / f"{name}.pt", out / f"{name}.py"
    export(run, epoch, weights)
    about = {"dataset": dataset, "threat": NORMS[info.norm], "epsilon": info.epsilon}
    text = SCRIPT.format(name=name, script=script.name, weights=weights.name, **about)
    write_atomic(script, text.encode())
    return [weights, script]

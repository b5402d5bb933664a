"""The command `co-probe import`."""

from pathlib import Path
from typing import Any

import click

from co_probe.cli.command import TRAIN, Command
from co_probe.cli.options import Normalisation, Number, device
from co_probe.cli.output import progress_bar


@click.command(
    name="import",
    cls=Command,
    heading=TRAIN,
    short_help="Make a run from checkpoints of another program.",
    examples=[
        "co-probe import 'ckpts/model_epoch_{epoch}.pth' --model mymodel:SmallNet --data cifar10 \\",
        "    --normalise cifar10 --epsilon 8/255 --attack fgsm-rs --out runs/mine",
    ],
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="PATTERN|FILE...")
@click.option("--model", required=True, help="package.module:Name, preact_resnet18, torchvision:NAME, timm:NAME, ...")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="An argument of the model: depth=28, width=10."
)
@click.option(
    "--data",
    required=True,
    help="Test images: a data set (cifar10, image-folder:PATH, ...), or a .npz or .pt file with x and y.",
)
@click.option("--epsilon", type=Number(), required=True, help="Norm bound ε, in units of a [0, 1] image: 8/255.")
@click.option("--norm", default="linf", show_default=True, help="Norm of the perturbations: linf or l2.")
@click.option("--attack", help="Attack of the training: fgsm-rs, n-fgsm, pgd7, ...")
@click.option(
    "--normalise",
    type=Normalisation(),
    help="Normalisation of the images before the model: cifar10, half, or MEAN,MEAN,MEAN/STD,STD,STD.",
)
@click.option(
    "--log", type=click.Path(path_type=Path), help="CSV file with columns train_loss, train_accuracy or learning_rate."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/FOLDER]")
@click.option("--images", type=int, default=1000, show_default=True, help="Number of test images to measure on.")
@click.option("--key", help="Entry of the files that holds the weights.  [default: the usual ones]")
@click.option("--strip", help="Prefix to remove from names of weights.  [default: the usual ones]")
@click.option("--method", help="Name of the training method in figures.  [default: the attack]")
@click.option("--no-check", is_flag=True, help="Import the model even if its clean accuracy is implausible.")
@click.option("--overwrite", is_flag=True, help="Delete an existing run and start again.")
@device
def import_(
    checkpoints: tuple[str, ...],
    model: str,
    assignments: tuple[str, ...],
    data: str,
    no_check: bool,
    **options: Any,
) -> None:
    """Make a run from checkpoints of another program.

    Each file becomes an epoch, whose number stands where PATTERN has {epoch}. Accuracy is measured at each: on clean
    images, under FGSM, PGD-10 and the training attack. All other commands then work on the run. The same command adds
    checkpoints that are new. Quote the pattern.
    """
    from co_probe.config import merge, parse_assignment, plugins
    from co_probe.data.image_file import is_image_file, read_images
    from co_probe.training.importing import import_run

    settings: dict[str, Any] = {}
    for text in assignments:
        settings = merge(settings, parse_assignment(text))
    if plugins.is_own(model):
        plugins.allow(model)
    with progress_bar("checkpoints") as show:
        run = import_run(
            checkpoints,
            model=model,
            test=data,
            train=None if is_image_file(data) and read_images(data, "train") is None else data,
            model_settings=settings,
            check=not no_check,
            progress=show,
            report=lambda line: click.echo(line, err=True),
            **options,
        )
    click.echo(f"Imported {len(run.epochs)} epochs to {run.path}. Next: co-probe show {run.path}")

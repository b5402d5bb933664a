"""Import of checkpoints of other programs as a run."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from co_probe.config.ball import check_ball
from co_probe.data.coerce import LabelledImages, coerce
from co_probe.data.dataset import to_unit
from co_probe.data.normalisation import Normalisation, as_normalisation
from co_probe.errors import UserError
from co_probe.runs import Run
from co_probe.runs.build import pick_device
from co_probe.runs.checkpoint_files import find_checkpoints
from co_probe.runs.foreign import BuiltModel, ModelLike, resolve_model
from co_probe.runs.state_dicts import fit, read_state_dict
from co_probe.runs.training_attack import AttackLike, TrainingAttack, training_attack
from co_probe.runs.training_log import TrainingLog, read_training_log
from co_probe.store import ModelSpec, RunInfo, new_run_id
from co_probe.training.metrics import measure
from co_probe.training.plausibility import (
    SANITY_IMAGES,
    Plausibility,
    check_class_count,
    logits_on,
    otherwise_normalised,
    plausibility,
)
from co_probe.training.recorder import Checkpoint, Recorder

Progress = Callable[[str, int, int], None]  # (epoch, checkpoints done, checkpoints to do)


def import_run(
    checkpoints: str | Path | Sequence[str | Path],
    *,
    model: ModelLike,
    test: Any,
    epsilon: float,
    train: Any = None,
    norm: str = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    attack: AttackLike | None = None,
    normalise: Any = None,
    log: Any = None,
    out: str | Path | None = None,
    images: int = 1000,
    classes: Sequence[str] | None = None,
    model_settings: Mapping[str, Any] | None = None,
    key: str | None = None,
    strip: str | None = None,
    method: str | None = None,
    data: str | None = None,
    check: bool = True,
    overwrite: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
    report: Callable[[str], None] | None = None,
) -> Run:
    """Import checkpoints of another program as a run.

    Each checkpoint becomes an epoch, with accuracy on clean images, under FGSM, PGD-10 and the training attack, and the
    gap, as measured during training by co-probe. If a run exists in `out`, missing epochs are added.

    Args:
        checkpoints: A pattern with `{epoch}`, a list of files, or one file (`co_probe.runs.checkpoint_files`).
        model: A module, a class or function that returns one, its name `package.module:Name`, a registered name
            (`preact_resnet18`), `torchvision:NAME` or `timm:NAME`. It is measured in eval mode.
        test: Test images and labels: a pair of tensors or arrays, a data set, a loader, the name of a co-probe data
            set, or a `.npz` or `.pt` file with x and y (`co_probe.data.coerce`). Images are within `bounds`, not
            normalised.
        epsilon: Norm bound of perturbations, in units of the images: 8/255, not 8.
        train: Training images and labels without augmentation, in the same form, for diagnostics of the train split.
        norm: Norm that ε bounds: `linf`, every pixel, or `l2`, the Euclidean norm of the perturbation.
        bounds: Least and greatest value of a pixel.
        attack: Training attack: the name of a method or attack (`fgsm-rs`, `pgd7`), an attack, or a function (model, x,
            y) -> δ; None if unknown.
        normalise: Normalisation that the model expects: (mean, std) in units of the images, or the name of a data set
            (`cifar10`); None if the model takes images within `bounds`.
        log: Training log, a CSV file or columns (`co_probe.runs.training_log`).
        out: Folder of the run; if None, `runs/` with the name of the checkpoints' folder.
        images: Number of test (and train) images to measure at every epoch, drawn at random if there are more.
        classes: Names of the classes, in the order of the logits.
        model_settings: Keyword arguments for `model`.
        key: Entry of the checkpoint files that holds the state dict; the usual ones are found if None.
        strip: Prefix to remove from names of weights; the usual ones are removed if None.
        method: Name of the training method in tables and figures; that of `attack` if None.
        data: Name of the data set in tables and figures; its own name, or the size of its images, if None.
        check: Reject a model whose accuracy on clean images is at chance or better with another normalisation.
        overwrite: Delete an existing run in `out`.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        progress: Called after each checkpoint with its epoch, the number of finished checkpoints, and of all.
        report: Called with each line about files and conversions; prints to standard error if None.

    Returns:
        The run, with `model`, so that all diagnostics work on it.

    Raises:
        UserError: An argument is invalid or conflicts with others.

    Example:
        >>> run = co_probe.import_run(
        ...     "ckpts/model_epoch_{epoch}.pth", model=SmallNet(), test=(x, y), epsilon=8 / 255, attack="fgsm-rs"
        ... )
    """
    say = report or _print
    check_ball(epsilon, norm)
    target = pick_device(device)
    files = find_checkpoints(checkpoints)
    logged = read_training_log(log)
    probe = coerce(test, count=images, bounds=bounds)
    probe_train = None if train is None else coerce(train, split="train", count=images, bounds=bounds)
    channels, height, width = probe.x.shape[1:]
    constants = None if normalise is None else as_normalisation(normalise, channels)
    mean, std = (None, None) if constants is None else (constants.mean, constants.std)
    names = tuple(map(str, classes)) if classes is not None else probe.classes
    built = resolve_model(
        model,
        channels=channels,
        classes=len(names) if names else int(probe.y.max()) + 1,
        mean=mean,
        std=std,
        settings=model_settings,
    )
    own = None if attack is None else training_attack(attack, epsilon=epsilon, norm=norm, bounds=bounds)
    loader = _Loader(built, key, strip, say)

    last = max(files.paths)
    network = loader.load(files.paths[last]).to(target)
    sanity = partial(_sanity, probe=probe, names=names, constants=constants, bounds=bounds, device=target, check=check)
    count, judged = sanity(network)
    if judged.serious and len(files.paths) > 1:  # a collapse may have changed the last model: check an earlier one
        middle = sorted(files.paths)[(len(files.paths) - 1) // 2]
        judged = replace(judged, serious=sanity(loader.load(files.paths[middle]).to(target))[1].serious)
    if judged.serious:
        raise UserError(f"{judged.remark} If it is right, check=False imports the model as it is")
    if judged.remark:
        say(f"Note: {judged.remark}")
    if probe_train is not None:
        _same_images(probe, probe_train, count)

    folder = Path(out) if out is not None else Path("runs") / (files.paths[last].resolve().parent.name or "imported")
    info = RunInfo(
        run_id=new_run_id(),
        method=method or (own.name if own else "unknown"),
        epsilon=epsilon,
        norm=norm,
        bounds=bounds,
        shape=(channels, height, width),
        classes=names or tuple(map(str, range(count))),
        mean=mean,
        std=std,
        data=data or probe.source or f"{height}×{width} images",
        model=ModelSpec(built.name, dict(built.settings), built.foreign),
        attack=own.name if own else None,
    )
    known = set() if overwrite else _imported_before(folder, info, probe)
    for note in (files.note, logged.note):
        if note:
            say(note)
    missing = {epoch: path for epoch, path in files.paths.items() if epoch not in known}
    if not missing:
        say("Note: all of these checkpoints were imported before")
    x, y = to_unit(probe.x).to(target), probe.y.to(target)
    pair = None if probe_train is None else (probe_train.x, probe_train.y)
    with Recorder(
        folder,
        info=info,
        test=(probe.x, probe.y),
        train=pair,
        device=target,
        resume=bool(known),
        overwrite=overwrite,
        imported=True,
    ) as recorder:
        for done, (epoch, path) in enumerate(missing.items(), 1):
            network = loader.load(path)
            metrics = _metrics(network, x, y, info, own, logged, epoch)
            weights = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
            recorder.epoch(Checkpoint(epoch=epoch, model=weights, metrics=metrics))
            if progress:
                progress(f"epoch {epoch}", done, len(missing))
    return Run(folder, model=model)


@dataclass
class _Loader:
    """Loads checkpoints into one model, and reports once per kind of file how it was converted."""

    built: BuiltModel
    key: str | None
    strip: str | None
    say: Callable[[str], None]
    said: str = ""

    def load(self, path: Path) -> nn.Module:
        model = self.built.model
        fitted = fit(read_state_dict(path, key=self.key, strip=self.strip), model, optional=self.built.own)
        if fitted.note and fitted.note != self.said:
            self.said = fitted.note
            self.say(f"{path.name}: {fitted.note}")
        model.load_state_dict(fitted.weights)
        return model.eval()


def _sanity(
    model: nn.Module,
    probe: LabelledImages,
    names: tuple[str, ...] | None,
    constants: Normalisation | None,
    bounds: tuple[float, float],
    device: torch.device,
    check: bool,
) -> tuple[int, Plausibility]:
    """Check a checkpoint; return its number of classes and, with `check`, whether its clean accuracy is plausible.

    Raises:
        UserError: The model does not fit images and labels.
    """
    some = slice(
        None, None, math.ceil(len(probe.y) / SANITY_IMAGES)
    )  # evenly spaced, since images may be sorted by class
    x, y = to_unit(probe.x[some]).to(device), probe.y[some]
    logits = logits_on(model, x)
    count = check_class_count(logits, probe.y, names)
    if not check or bounds != (0.0, 1.0):
        return count, Plausibility()
    others = {name: logits_on(model, seen) for name, seen in otherwise_normalised(x, constants)}
    return count, plausibility(logits, y, others)


def _same_images(test: LabelledImages, train: LabelledImages, classes: int) -> None:
    if train.x.shape[1:] != test.x.shape[1:]:
        raise UserError(f"train images have shape {tuple(train.x.shape[1:])} and test images {tuple(test.x.shape[1:])}")
    if int(train.y.max()) >= classes:
        raise UserError(f"train labels run up to {int(train.y.max())}, and the model has {classes} classes")


def _imported_before(folder: Path, info: RunInfo, probe: LabelledImages) -> set[int]:
    """Return the epochs of the run in `folder`, none if there is no run.

    Raises:
        UserError: The run has another model, images or settings.
    """
    if not (folder / "run.h5").exists():
        return set()
    run = Run(folder)
    if run.info.settings is not None:
        raise UserError(f"{folder} is a run that co-probe trained: choose another folder, or overwrite=True")
    names = ("attack", "method", "data", "epsilon", "norm", "bounds", "shape", "classes", "mean", "std", "model")
    for name in names:
        there, given = getattr(run.info, name), getattr(info, name)
        if there != given:
            now = f"now without: give {name}={there!r} again" if given is None else f"not {given!r}: give the same"
            raise UserError(
                f"{folder} was imported with {name} {there!r}, {now}, choose another folder, or overwrite=True"
            )
    stored = run.probe_images("test")
    if stored is None or not (
        torch.equal(torch.from_numpy(stored[0]), probe.x) and torch.equal(torch.from_numpy(stored[1]), probe.y)
    ):
        raise UserError(f"{folder} was imported with other test images: choose another folder, or overwrite=True")
    return set(run.epochs)


def _metrics(
    model: nn.Module, x: Tensor, y: Tensor, info: RunInfo, own: TrainingAttack | None, log: TrainingLog, epoch: int
) -> dict[str, float]:
    """Return the metrics of one epoch, logged and measured; only finite numbers."""
    measured = measure(
        model,
        x,
        y,
        epsilon=info.epsilon,
        norm=info.norm,
        bounds=info.bounds,
        train_attack=own.perturb if own else None,
        seed=info.probe_seed,
    )
    found = log.metrics.get(epoch, {}) | measured.to_dict()
    return {name: value for name, value in found.items() if abs(value) < float("inf")}


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

"""Data of a report's slider: images, perturbations and predictions at many epochs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from co_probe.attacks.named import named_attack
from co_probe.config.labels import attack_label
from co_probe.data.dataset import at_least_float32
from co_probe.diagnosis import verdict_of
from co_probe.diagnosis.key_epochs import key_epochs
from co_probe.inference.evaluation import perturb
from co_probe.numerics.rng import make_rng
from co_probe.probes.runner import Progress, live_run
from co_probe.reporting.sprites import perturbation_sheet, shrunk, strip
from co_probe.runs.build import pick_device
from co_probe.store import StoredRun

ATTACKS = ("fgsm", "pgd10")
IMAGES = 8
SIDE = 64  # greatest side of an image, in pixels
EPOCHS = 60  # greatest number of epochs
PIXELS = 600_000  # greatest number of pixels of a sheet of perturbations: 0.3 MB as PNG


@dataclass(frozen=True)
class Prediction:
    """The class that a model predicts for an image.

    Attributes:
        label: Name of the class.
        share: Probability of the class, in [0, 1].
        right: Whether it is the true class.
    """

    label: str
    share: float
    right: bool


@dataclass(frozen=True)
class Row:
    """A row of pictures: images, or their perturbations.

    Attributes:
        title: Title: `image`, `FGSM`, `PGD-10`.
        sheet: Data URI of the pictures, one row for all epochs or a row per epoch.
        moving: Whether the sheet has a row per epoch.
        predictions: Predictions per epoch and image with this perturbation.
    """

    title: str
    sheet: str
    moving: bool
    predictions: list[list[Prediction]]


@dataclass(frozen=True)
class Browser:
    """The pictures of a run.

    Attributes:
        epochs: Shown epochs, sorted.
        labels: True classes of the images.
        ratio: Height of a picture divided by its width.
        rows: Images and perturbations.
        note: Description of images and epochs in one sentence.
    """

    epochs: list[int]
    labels: list[str]
    ratio: float
    rows: list[Row]
    note: str


def browse(run: StoredRun, *, images: int = IMAGES, device: str = "auto", progress: Progress | None = None) -> Browser:
    """Make perturbations and predictions of the first test images of the probe set, at all epochs or at many.

    Args:
        run: A run with a finished epoch.
        images: Number of images.
        device: Device of the models.
        progress: Called after each epoch.

    Raises:
        UserError: The model of the run cannot be built.
    """
    live, target = live_run(run), pick_device(device)
    x, y = (part[:images].to(target) for part in live.test_data())
    small = shrunk(x.cpu().numpy(), SIDE)
    epochs = shown_epochs(run, PIXELS // (len(x) * small.shape[-2] * small.shape[-1]))
    labels = [live.info.classes[index] for index in y.tolist()]
    deltas: dict[str, list[Any]] = {name: [] for name in ATTACKS}
    predicted: dict[str, list[list[Prediction]]] = {name: [] for name in ("clean", *ATTACKS)}
    for _, model in live.models(epochs, target):
        predicted["clean"].append(_predictions(model, x, y, live.info.classes))
        for name in ATTACKS:
            attack = named_attack(name, live.epsilon, live.norm, live.info.bounds)
            delta = perturb(model, attack, x, y, make_rng(target, live.info.probe_seed, "report"))
            moved = (x + delta).clamp(*live.info.bounds)
            predicted[name].append(_predictions(model, moved, y, live.info.classes))
            deltas[name].append(shrunk(delta.float().cpu().numpy(), SIDE))
        if progress:
            progress(f"{run.name}: images", len(predicted["clean"]), len(epochs))
    rows = [Row("image", strip(small, live.info.bounds), False, predicted["clean"])]
    for name in ATTACKS:
        largest = live.epsilon if live.norm == "linf" else max(float(np.abs(each).max()) for each in deltas[name])
        sheet = perturbation_sheet(deltas[name], largest or 1.0)
        rows.append(Row(attack_label(name), sheet, True, predicted[name]))
    which = "all epochs" if len(epochs) == len(run.epochs) else f"{len(epochs)} of {len(run.epochs)} epochs"
    note = f"The first {len(y)} test images of the probe set, not chosen; {which}."
    return Browser(epochs, labels, small.shape[-2] / small.shape[-1], rows, note)


def shown_epochs(run: StoredRun, most: int) -> list[int]:
    """Select the epochs for the slider: all, or those around a collapse and others at even distances.

    Args:
        run: The run.
        most: Greatest number of epochs, from 8 to `EPOCHS`.
    """
    epochs, most = run.epochs, max(8, min(most, EPOCHS))
    if len(epochs) <= most:
        return epochs
    chosen = {*key_epochs(run), epochs[0]}
    for episode in verdict_of(run).episodes[:1]:
        chosen |= {episode.start - 1, episode.start} & set(epochs)
    even = [epochs[round(place)] for place in np.linspace(0, len(epochs) - 1, most - len(chosen))]
    return sorted({*chosen, *even})


@torch.no_grad()
def _predictions(model: nn.Module, x: Tensor, y: Tensor, classes: tuple[str, ...]) -> list[Prediction]:
    shares, indices = at_least_float32(model(x)).softmax(1).max(1)
    found = zip(indices.tolist(), shares.tolist(), (indices == y).tolist(), strict=True)
    return [Prediction(classes[index], share, right) for index, share, right in found]

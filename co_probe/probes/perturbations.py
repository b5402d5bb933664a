"""Perturbations of a few test images, for figures."""

from typing import Any

import pandas as pd

from co_probe.attacks.named import named_attack
from co_probe.config.labels import AttackLike
from co_probe.inference.evaluation import perturb
from co_probe.probes.runner import live_run
from co_probe.store import StoredRun


def perturbations(
    run: StoredRun, epochs: list[int] | None = None, images: int = 4, generator: AttackLike = "fgsm"
) -> pd.DataFrame:
    """Make δ of a generator at some epochs, for the first test images of the probe set.

    Args:
        run: The run.
        epochs: Epochs; the most robust and the last one, if None.
        images: Number of images.
        generator: An attack, its name, or `method` for the run's training attack.

    Returns:
        A row for each epoch and image, with the columns run, epoch, epsilon, image (its number), label, accuracy (of
        that epoch under PGD-10, NaN if not stored), x and delta (arrays (C, H, W)).

    Raises:
        UserError: For a missing epoch or an unknown attack.
    """
    live = live_run(run)
    x, y = (part[:images] for part in live.test_data())
    rows = []
    for epoch in epochs or sorted({live.best_epoch, live.last_epoch}):
        attack: Any
        if generator == "method":
            attack = live.training_attack(epoch)
        else:
            attack = named_attack(generator, live.epsilon, live.norm, live.info.bounds)
        delta = perturb(live.load_model(epoch), attack, x, y).cpu().numpy()
        accuracy = live.metrics(epoch).get("pgd10", float("nan"))
        for number in range(len(y)):
            rows.append(
                {
                    "run": live.name,
                    "epoch": epoch,
                    "epsilon": live.epsilon,
                    "image": int(live.probe_set["test"][number]),
                    "label": live.info.classes[int(y[number])],
                    "accuracy": accuracy,
                    "x": x[number].numpy(),
                    "delta": delta[number],
                }
            )
    return pd.DataFrame(rows)

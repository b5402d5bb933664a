"""The perturbations themselves, for a few test images: something to look at."""

import pandas as pd

from co_probe.attacks.named import named_attack
from co_probe.inference.evaluation import perturb
from co_probe.runs import Run


def perturbations(run: Run, epochs: list[int] | None = None, images: int = 4, generator: str = "fgsm") -> pd.DataFrame:
    """δ of `generator` (an attack by name, or the `method`'s own) at some epochs, for the first `images` test images.

    `epochs`: if not given, the two that `telling_epochs` picks. Columns: run, epoch, epsilon, image, label, accuracy
    (of that epoch under PGD-10), x and delta, arrays (C, H, W). Raises UserError for an epoch that the run does not
    have, or an unknown generator.
    """
    x, y = (part[:images] for part in run.test_data())
    rows = []
    for epoch in epochs or telling_epochs(run):
        attack = (
            run.generator(epoch).perturb
            if generator == "method"
            else named_attack(generator, run.epsilon, run.norm, run.info.bounds)
        )
        delta = perturb(run.load_model(epoch), attack, x, y).cpu().numpy()
        accuracy = run.metrics(epoch)["pgd10"]
        for number in range(len(y)):
            rows.append(
                {
                    "run": run.name,
                    "epoch": epoch,
                    "epsilon": run.epsilon,
                    "image": int(run.probe_set["test"][number]),
                    "label": run.info.classes[int(y[number])],
                    "accuracy": accuracy,
                    "x": x[number].numpy(),
                    "delta": delta[number],
                }
            )
    return pd.DataFrame(rows)


def telling_epochs(run: Run) -> list[int]:
    """The most robust epoch (before the onset, if there is one) and the last: a run that has fallen shows it there.

    Raises UserError if no epoch is finished.
    """
    last, onset = run.last_epoch, run.onset
    healthy = [epoch for epoch in run.epochs if onset is None or epoch < onset] or run.epochs
    best = max(healthy, key=lambda epoch: run.metrics(epoch)["pgd10"])
    return sorted({best, last})

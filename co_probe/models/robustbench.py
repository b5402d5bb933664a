"""Models of RobustBench, by their names in its model zoo."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from co_probe.errors import UserError, one_line, unknown

DATASETS = {"cifar10": 10, "cifar100": 100}  # number of classes
THREATS = ("Linf", "L2")
SINGLE = "it is an ensemble of several files, and only models of one file can be read"


def split_name(name: str) -> tuple[str, str, str]:
    """Split `[DATASET/THREAT/]NAME` into data set, threat model and name.

    Raises:
        UserError: It has another form.
    """
    parts = name.split("/")
    if len(parts) == 1:
        parts = ["cifar10", "Linf", *parts]
    if len(parts) != 3 or parts[0] not in DATASETS or parts[1] not in THREATS:
        raise UserError(
            f"robustbench:{name}: write NAME, or DATASET/THREAT/NAME with {' or '.join(DATASETS)} and "
            f"{' or '.join(THREATS)}"
        )
    return parts[0], parts[1], parts[2]


def robustbench_model(name: str, channels: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Build a network of RobustBench's model zoo, which normalises images itself, with random weights.

    Raises UserError if RobustBench is not installed, or it has no such model of one file.
    """
    dataset, threat, model = split_name(name)
    if (channels, classes) != (3, DATASETS[dataset]):
        raise ValueError(f"it takes RGB images in {DATASETS[dataset]} classes, not {channels} channels and {classes}")
    network = _entry(dataset, threat, model)["model"]()
    assert isinstance(network, nn.Module)
    return network


def load_published(name: str, folder: str | Path = "models") -> nn.Module:
    """Return a model of RobustBench with its published weights, read from the disk by RobustBench itself.

    Args:
        name: `[DATASET/THREAT/]NAME`.
        folder: RobustBench's folder of weights, its `model_dir`.

    Raises:
        UserError: RobustBench is not installed, it has no such model of one file, or the weights are not on the disk or
            do not fit.
    """
    dataset, threat, model = split_name(name)
    _entry(dataset, threat, model)
    path = Path(folder) / dataset / threat / f"{model}.pt"
    if not path.is_file():
        raise UserError(
            f"robustbench:{name}: the weights are not on this machine: put them in {path}, or download them with "
            f"robustbench.load_model({model!r}, model_dir={os.fspath(folder)!r}, dataset={dataset!r}, "
            f"threat_model={threat!r})"
        )
    from robustbench.utils import load_model

    try:
        network = load_model(model, model_dir=str(folder), dataset=dataset, threat_model=threat)
    except Exception as error:  # third-party code may raise anything
        raise UserError(f"robustbench:{name}: {path} cannot be read: {one_line(error)}") from error
    assert isinstance(network, nn.Module)
    return network.eval()


def _entry(dataset: str, threat: str, model: str) -> dict[str, Any]:
    """Return the zoo's entry of a model. Raises UserError for unknown models and ensembles of several files."""
    try:
        import timm
        from robustbench.model_zoo import model_dicts
        from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
    except ImportError as error:
        raise UserError(
            f"robustbench:{model} needs the package robustbench: pip install robustbench ({one_line(error)})"
        ) from error
    zoo = model_dicts[BenchmarkDataset(dataset)][ThreatModel(threat)]
    if model not in zoo:
        raise unknown(f"RobustBench model of {dataset}, {threat}", model, list(zoo))
    entry: dict[str, Any] = zoo[model]
    fetched = timm.is_model(f"{model.lower().replace('-', '_')}_{dataset}_{threat.lower()}")
    if fetched or not isinstance(entry.get("gdrive_id"), str) or not callable(entry.get("model")):
        raise UserError(f"robustbench:{model}: {SINGLE}")
    return entry

"""Tables of a report: facts, settings and environment of a run, and numbers with intervals."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from co_probe.config import Config
from co_probe.config.labels import NORMS, attack_label, epsilon_label
from co_probe.config.plugins import is_own
from co_probe.config.presets import configure
from co_probe.config.probes import PROBES
from co_probe.config.settings import parse_assignment
from co_probe.data import DATA
from co_probe.errors import UserError
from co_probe.store import StoredRun

METRICS = {
    "clean": "clean",
    "fgsm": "FGSM",
    "train_attack": "training attack",
    "pgd10": "PGD-10",
    "validation_pgd10": "PGD-10, validation",
    "train_accuracy": "training images",
    "gap": "gap (nats)",
    "train_loss": "training loss (nats)",
    "learning_rate": "learning rate",
    "seconds": "seconds",
}
"""Metric -> heading, in order of columns."""

SHARES = ("clean", "fgsm", "train_attack", "pgd10", "validation_pgd10", "train_accuracy")
COLUMNS = ("run", "method", "seed", "epoch", "probe", "quantity", "value", "low", "high", "n")


@dataclass(frozen=True)
class Cell:
    """A number with an optional 95% interval."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class NumberTable:
    """A table with an epoch or a run per row.

    Attributes:
        title: Title.
        header: Names of the columns.
        rows: Cells; the first cell names the row.
        marked: Indices of rows in an episode.
    """

    title: str
    header: list[str]
    rows: list[list[Cell]]
    marked: frozenset[int] = frozenset()


def facts(run: StoredRun) -> dict[str, str]:
    """Return known facts about a run, {name: value}."""
    info = run.info
    steps = None if info.steps_per_epoch is None else f"{info.steps_per_epoch:,} per epoch"
    found = {
        "method": info.method,
        "training attack": info.attack and attack_label(info.attack),
        "data": info.data,
        "ε": f"{epsilon_label(info.epsilon)} ({NORMS[info.norm]}), pixels in [{info.bounds[0]:g}, {info.bounds[1]:g}]",
        "seed": info.seed,
        "epochs": f"{len(run.epochs)} of {run.planned}",
        "batch size": info.batch_size,
        "steps": steps,
        "model": " ".join([info.model.name, *(f"{key}={value}" for key, value in info.model.settings.items())]),
        "precision": info.precision,
        "test images": len(run.probe_set.get("test", ())) or None,
        "validation images": len(run.probe_set.get("validation", ())) or None,
        "run id": info.run_id or None,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def settings(run: StoredRun) -> dict[str, str]:
    """Return training settings, {dotted name: value}; empty for a run of another program."""
    return {name: str(value) for name, value in flat(run.info.settings or {}).items()}


def is_imported(run: StoredRun) -> bool:
    """Return whether a run was made from checkpoints of another program."""
    return run.environment.get("recorded by") == "import"


def environment_title(run: StoredRun) -> str:
    """Return whether the environment of a run is that of training or of the import."""
    if is_imported(run):
        return "Environment of the import (that of the training is unknown)"
    return "Environment of the training"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def metrics_table(run: StoredRun, collapsed: Sequence[int] = ()) -> NumberTable | None:
    """Make the table of training metrics per epoch with intervals; None if there are none."""
    frame = run.frame("metrics")
    if not len(frame):
        return None
    names = {name: METRICS[name] for name in METRICS if name in set(frame["quantity"])}
    return _by_epoch("Every epoch, measured during training", frame, names, SHARES, collapsed)


def probe_tables(run: StoredRun, collapsed: Sequence[int] = ()) -> list[NumberTable]:
    """Make tables of stored probes with a row per epoch, one for each choice of settings."""
    found = []
    for name in (name for name in run.probes() if name in PROBES.entries):
        frame, probe = run.frame(name), PROBES.load(name)
        frame = frame[(frame["epoch"] > 0) & ~frame["quantity"].isin(probe.details)]
        if "attack" in frame:  # a table of `eval`, with accuracy per attack
            accuracies = frame["quantity"] == "accuracy"
            frame = frame.assign(quantity=frame["quantity"].mask(accuracies, frame["attack"].map(attack_label)))
        keys = [field.name for field in fields(probe) if field.name in frame and field.name != "epoch"]
        shares = (*probe.shares, *(map(attack_label, frame["attack"].unique()) if "attack" in frame else ()))
        for key, rows in frame.groupby(keys, dropna=False, sort=False) if keys else [((), frame)]:
            about = ", ".join(f"{name} {_short(value)}" for name, value in zip(keys, _tuple(key), strict=True))
            quantities = {str(quantity): str(quantity) for quantity in rows["quantity"].unique()}
            found.append(_by_epoch(f"{name} ({about})" if about else name, rows, quantities, shares, collapsed))
    return found


def _tuple(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _by_epoch(
    title: str, frame: pd.DataFrame, names: Mapping[str, str], shares: Sequence[str], collapsed: Sequence[int]
) -> NumberTable:
    rows, marked = [], []
    for number, (epoch, at) in enumerate(frame.groupby("epoch")):
        known = at.drop_duplicates("quantity", keep="last").set_index("quantity")
        cells = [_cell(known, quantity, quantity in shares) for quantity in names]
        rows.append([Cell(str(epoch)), *cells])
        if epoch in collapsed:
            marked.append(number)
    return NumberTable(title, ["epoch", *names.values()], rows, frozenset(marked))


def _cell(known: pd.DataFrame, quantity: str, share: bool) -> Cell:
    if quantity not in known.index:
        return Cell("")
    row = known.loc[quantity]
    return number_cell(row["value"], row["low"], row["high"], share=share)


def number_cell(value: float, low: float, high: float, *, share: bool) -> Cell:
    """Make a cell of a number with its interval, if any; shares in percent."""
    if pd.isna(value):
        return Cell("")
    scale, digits = (100, ".1f") if share else (1, ".3g" if abs(value) < 1 else ".2f")
    interval = "" if low == high else f"{scale * low:{digits}} – {scale * high:{digits}}"
    return Cell(f"{scale * value:{digits}}{'%' if share else ''}", interval)


def training_command(run: StoredRun) -> str | None:
    """Return a command that makes the run again, by training or import; None if there is none."""
    stored = run.info.settings
    if stored is None:
        return _import_command(run) if is_imported(run) else None
    method, preset = stored["method"]["name"], stored.get("preset") or "digits"
    words = ["co-probe", "run", method, "--preset", preset, "--out", f"runs/{run.name}"]
    try:
        base = flat(configure(preset, method).to_dict())
        wanted = flat(Config.from_dict(stored).to_dict())
        changes = [f"{key}={_typed(value)}" for key, value in wanted.items() if base.get(key) != value]
        overrides: list[dict[str, Any]] = [parse_assignment(text) for text in changes]
        made = configure(preset, method, *overrides).to_dict()
        if flat(made) != wanted:
            return None
    except UserError:
        return None
    return shlex.join([*words, *(part for change in changes for part in ("--set", change))])


def _import_command(run: StoredRun) -> str:
    """Return the command that imports a run again, with placeholders for its files."""
    info, model = run.info, run.info.model
    words = ["co-probe", "import", "CHECKPOINT-{epoch}.pt", *_model_option(run)]
    for name, value in model.settings.items():
        words += ["--set", f"{name}={_typed(value)}"]
    words += ["--data", info.data if info.data in DATA else "TEST-IMAGES.npz", "--epsilon", str(info.epsilon)]
    if info.norm != "linf":
        words += ["--norm", info.norm]
    if info.attack:
        words += ["--attack", info.attack]
    if info.mean and info.std:
        constants = (",".join(f"{number:g}" for number in numbers) for numbers in (info.mean, info.std))
        words += ["--normalise", "/".join(constants)]
    if info.method != (info.attack or "unknown"):
        words += ["--method", info.method]
    return shlex.join([*words, "--out", f"runs/{run.name}"])


def _model_option(run: StoredRun) -> list[str]:
    """Return `--model NAME`, with a placeholder for the module if the network cannot be imported by name."""
    name = run.info.model.name
    if run.info.model.foreign and ":" not in name:
        return ["--model", f"PACKAGE.MODULE:{name}"]
    return ["--model", name]


def _typed(value: Any) -> str:
    """Format a setting as typed on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def commands(run: StoredRun) -> Iterator[str]:
    """Yield the commands that reproduce the measurements on a run."""
    path, model = shlex.quote(str(run.path)), run.info.model
    if model.foreign or is_own(model.name):
        path += f" {shlex.join(_model_option(run))}"
    yield f"co-probe diagnose {path}"
    stored = set(run.probes())
    if "gap" in stored or len(run.frame("metrics")):
        yield f"co-probe plot robust-overfitting {path}"
    for name in sorted(stored & set(PROBES.entries) - {"gap", "masking", "strength", "eval"}):
        yield f"co-probe probe {name} {path}"

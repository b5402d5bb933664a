"""Reading checkpoints of other programs, and fitting their weights to a model.

Only tensors, numbers, strings and plain containers are read; no code in a file is executed.
"""

import argparse
import pickle
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from co_probe.data.pt_files import read_pt
from co_probe.errors import DamagedFile, UserError

# The first of these with a state dict is used: trained weights before their moving average.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "ema",
    "state_dict_ema",
    "model_ema",
)
SEGMENTS = ("module", "_orig_mod", "model")  # DataParallel, torch.compile, Lightning
BOOKKEEPING = ("n_averaged",)  # torch.optim.swa_utils.AveragedModel
# Safe classes that checkpoints hold in addition to weights: command-line arguments, and numpy scalars.
PLAIN: list[Any] = [
    argparse.Namespace,
    defaultdict,
    dict,
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
]


@dataclass(frozen=True)
class StateDict:
    """Weights in a file.

    Attributes:
        weights: Tensors by their names in the file, memory-mapped if its format allows it.
        source: Name of the file in errors.
        key: Entry of the file with the state dict; None if the file is the state dict itself.
        strip: Prefix to remove from names; None to find it by comparison with the model.
    """

    weights: dict[str, Tensor]
    source: str
    key: str | None = None
    strip: str | None = None


def read_state_dict(path: str | Path, *, key: str | None = None, strip: str | None = None) -> StateDict:
    """Read the weights in a checkpoint file.

    Args:
        path: A file of `torch.save`.
        key: Entry with the state dict, with dots for nested entries; if None, the usual ones are tried.
        strip: Prefix to remove from names; if None, `fit` removes the usual ones if names then match.

    Raises:
        UserError: The file does not exist, holds a pickled model, or has no state dict.
        DamagedFile: The file cannot be read.
    """
    content = _load(Path(path))
    if key is not None:
        found = content
        for part in [key] if isinstance(content, Mapping) and key in content else key.split("."):
            if not isinstance(found, Mapping) or part not in found:
                raise UserError(f"{path} has no entry {key!r}: {_contents(content)}")
            found = found[part]
        return StateDict(_tensors(path, found, f"its entry {key!r} "), str(path), key, strip)
    where: list[str] = []
    found = content
    while isinstance(found, Mapping) and (inside := _wrapped(found)):
        where.append(inside)
        found = found[inside]
    return StateDict(_tensors(path, found, ""), str(path), ".".join(where) or None, strip)


@dataclass(frozen=True)
class Fitted:
    """Weights with the names, shapes and types of a model; `note` describes conversions in one line."""

    weights: dict[str, Tensor]
    note: str


def fit(state: StateDict, model: nn.Module, *, optional: Sequence[str] = ()) -> Fitted:
    """Rename weights to the names of `model`, and check that they fit.

    A model whose published form has other names defines a method `published_name(name)`, which translates a published
    name, or returns None for an unused one. Shapes are compared before copying.

    Args:
        state: Result of `read_state_dict`.
        model: Target model, which is not changed.
        optional: Names that the file may lack; they keep the values of the model.

    Raises:
        UserError: Names or shapes differ.
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    names, done = _rename(state, model, set(own) - set(optional))
    if state.key:
        done.insert(0, f"taken from its entry {state.key!r}")
    weights, converted = {}, set()
    for name, old in names.items():
        if name not in own:
            continue
        value, like = state.weights[old], own[name]
        if value.shape != like.shape:
            raise UserError(
                f"{state.source} does not fit the model: {old} is {tuple(value.shape)} in the file and "
                f"{tuple(like.shape)} in the model; is it a model of another width, depth or number of classes?"
            )
        if value.dtype != like.dtype:
            converted.add(str(value.dtype).removeprefix("torch."))
        weights[name] = value.to(like.dtype)
    for name, value in own.items():
        # Files of PyTorch before 0.4.1 lack counters, which only BatchNorm without momentum uses.
        if name not in weights and (name in optional or name.endswith("num_batches_tracked")):
            weights[name] = value.clone()
    _check_names(state, own, weights, names, optional)
    if converted:
        done.append(f"converted from {', '.join(sorted(converted))}")
    return Fitted(weights, f"Weights were {', '.join(done)}." if done else "")


def _load(path: Path) -> Any:
    try:
        return read_pt(path, PLAIN)
    except pickle.UnpicklingError as error:
        if "nsupported" not in str(error):
            raise DamagedFile(f"{path} cannot be read as a checkpoint: is it truncated, or another format?") from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        weights = path.with_name(f"{path.stem}_weights.pth").name
        raise UserError(
            f"{path} is pickled Python code{f' ({found[1]})' if found else ''}, not weights, and is not opened, since "
            f"that could run anything; if you trust it, convert it where its code is installed: "
            f'model = torch.load("{path.name}", weights_only=False); torch.save(model.state_dict(), "{weights}")'
        ) from error


def _wrapped(content: Mapping[Any, Any]) -> str | None:
    """Return the entry of `content` with the weights; None if they are its own entries."""
    for name in WRAPPERS:
        inside = content.get(name)
        if isinstance(inside, Mapping) and (_is_state_dict(inside) or _wrapped(inside)):
            return name
    return None


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and any(isinstance(value, Tensor) for value in content.values())


def _tensors(path: str | Path, content: Any, what: str) -> dict[str, Tensor]:
    if not _is_state_dict(content):
        raise UserError(f"{path}: {what or 'it '}is no state dict: {_contents(content)}; name the entry that is: key")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _contents(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it holds a {type(content).__name__}"
    names = [str(name) for name in content]
    return f"it has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


def _rename(state: StateDict, model: nn.Module, wanted: set[str]) -> tuple[dict[str, str], list[str]]:
    """Return {new name: name in the file}, and descriptions of the changes.

    Of all ways to strip segments, use the one that matches most names of the model, with the smallest change.
    """
    translations: list[Callable[[str], str | None]] = [str]
    translations += [model.published_name] if hasattr(model, "published_name") else []  # type: ignore[list-item]
    best, done, most = {name: name for name in state.weights}, list[str](), -1
    for segments, anywhere in _ways(state.strip):
        for translate in translations:
            pairs = [(translate(_strip(name, segments, anywhere)), name) for name in state.weights]
            names = {new: name for new, name in pairs if new is not None and name not in BOOKKEEPING}
            unique = len(names) == sum(new is not None and name not in BOOKKEEPING for new, name in pairs)
            if unique and (matches := len(wanted & names.keys())) > most:
                best, most = names, matches
                done = [f"stripped of {' and '.join(repr(segment) for segment in segments)}"] if segments else []
                done += [] if translate is str else ["given co-probe's names"]
    return best, done


def _ways(strip: str | None) -> list[tuple[tuple[str, ...], bool]]:
    if strip is not None:
        return [((strip,) if strip else (), False)]
    prefixes = [f"{segment}." for segment in SEGMENTS]
    subsets = [subset for size in range(len(prefixes) + 1) for subset in combinations(prefixes, size)]
    return [(subset, anywhere) for anywhere in (False, True) for subset in subsets]


def _strip(name: str, prefixes: tuple[str, ...], anywhere: bool) -> str:
    """Remove `prefixes` from the start of `name`, in any order and number, or anywhere as whole segments."""
    if anywhere:
        for prefix in prefixes:
            name = re.sub(rf"(^|\.){re.escape(prefix)}", r"\1", name)
        return name
    while found := next((prefix for prefix in prefixes if prefix and name.startswith(prefix)), None):
        name = name[len(found) :]
    return name


def _check_names(
    state: StateDict,
    own: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    names: Mapping[str, str],
    optional: Sequence[str],
) -> None:
    missing = [name for name in own if name not in weights]
    extra = [old for name, old in names.items() if name not in own]
    if not (missing or extra):
        return
    parts = []
    if missing:
        near = [(name, get_close_matches(name, extra, n=1, cutoff=0.6)) for name in missing[:3]]
        said = [f"{name}{f' (nearest: {match[0]})' if match else ''}" for name, match in near]
        parts.append(f"{len(missing)} of the model's {len(own)} tensors are missing: {', '.join(said)}")
    if extra:
        parts.append(f"{len(extra)} are not the model's: {', '.join(extra[:3])}")
    raise UserError(f"{state.source} does not fit the model: {'; '.join(parts)}; is it of this model?")

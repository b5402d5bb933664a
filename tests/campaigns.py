"""Campaigns of odd input: always the same cases, which end in one of four ways."""

import io
import json
import math
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import h5py
import made_files
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st

from co_probe.cli.main import main

ALL = "CO_PROBE_ALL_CASES" in os.environ
"""Whether campaigns try all of their cases; if not, a third of them, always the same."""

PATIENCE = 60  # seconds until a command counts as hanging, on a machine that is busy
MEMORY = 600 * 2**20  # bytes that all examples of a format may take together, with what they import
SAID = re.compile(r"Skipped: |Warning: |Next: |.*: \d+/\d+ \(|Weights were |\S+: Weights were ")


def campaign(examples: int) -> Callable:
    """The settings of all campaigns: always the same examples, so many of them."""

    def decorate(test: Callable) -> Callable:
        checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
        options: dict[str, Any] = {"database": None, "deadline": None, "suppress_health_check": checks}
        phases = (Phase.explicit, Phase.generate)  # a failure is reported as it is found: shrinking takes minutes
        count = examples if ALL else math.ceil(examples / 3)
        return seed(0)(settings(max_examples=count, phases=phases, **options)(test))

    return decorate


@contextmanager
def modest_memory() -> Iterator[None]:
    """Assert that what is done inside takes little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


# -- endings ---------------------------------------------------------------------------------------------------------


class Hangs(BaseException):
    """A command takes longer than it may."""


@contextmanager
def patience() -> Iterator[None]:
    def end(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run_command(*arguments: str | Path) -> tuple[int, str, str]:
    """The command line in this process: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with patience(), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit:
        main([*map(str, arguments)])
    return exit.value.code, out.getvalue(), err.getvalue()


def check_ending(code: int, out: str, err: str) -> str:
    """Return how a command ended: `result`, `skipped`, `refused` or `diverged`; fail if in no such way."""
    lines = err.splitlines()
    said = [line for line in lines if not SAID.match(line)]
    assert "Traceback" not in out + err and max(map(len, lines), default=0) < 2000, err
    if code == 0:
        assert not said and "nan" not in out.lower().split(), err
        return "skipped" if any(line.startswith("Skipped: ") for line in lines) else "result"
    assert len(said) == 1 and said[0].startswith("Error: "), err
    if code == 1:
        assert "no longer a finite number" in err, err
        return "diverged"
    assert code == 2, err
    return "refused"


# -- what is put in the place of what was there ----------------------------------------------------------------------

LARGE = [made_files.doubled, made_files.nested, made_files.repeated, made_files.bomb((2**12, 2**20))]
LARGE += [made_files.bomb((2**8,), compression="lzf", compression_opts=None)]
ODD_TEXTS = ["", "nan", "a\nb", "\x1b[31m", "ε" * 50, "../../etc", "package.module:Name"]
ODD_TEXTS += ["null", "[]", "{}", "{", "[" * 3000, "1e999"]

numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63 - 1, 10**6, 0.0, -0.5, 1.5, 1e-320, 1e308, float("inf"), float("nan")]),
    st.integers(-(2**62), 2**62),
    st.floats(),
)
scalars = st.one_of(numbers, st.sampled_from(ODD_TEXTS), st.booleans(), st.just(1j), st.none())


@st.composite
def arrays(draw: Any) -> np.ndarray:
    """An array of any type and shape, of few values."""
    dtype = draw(st.sampled_from(["f4", "f8", "f2", "i8", "i1", "u1", "u8", "?", "c8", "S3", "f4,i4"]))
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 8, 10, 30, 40]), max_size=4)))
    fill = draw(st.sampled_from([0, 1, -1, 7, 200]))
    array = np.zeros(shape, dtype)
    if dtype not in ("S3", "f4,i4"):
        array[...] = np.array(fill).astype(dtype)
    return array


@st.composite
def json_values(draw: Any, original: Any) -> Any:
    """`original` with one of its parts replaced."""
    if isinstance(original, dict) and original and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(original)))
        return {**original, name: draw(json_values(original[name]))}
    odd = st.sampled_from([None, True, [], {}, [[]], "", "nan", 0, -1, 1e308, 10**30, float("inf"), float("nan")])
    return draw(st.one_of(odd, st.text(max_size=5), st.lists(st.integers(), max_size=3)))


def nodes(file: h5py.File) -> list[str]:
    """The path of every group, array and attribute of a file."""
    found = [f"/{name}" for name in file.attrs]

    def add(path: str, node: Any) -> None:
        found.append(f"/{path}")
        found.extend(f"/{path}/{name}" for name in node.attrs)

    file.visititems(add)
    return sorted(path.removeprefix("/") for path in found)


def read_node(file: h5py.File, path: str) -> Any:
    where, _, name = path.rpartition("/")
    group = file[where] if where else file
    return group.attrs[name] if name in group.attrs else group[name]


def alter(data: Any, path: Path) -> str:
    """Put something odd into an HDF5 file; return where."""
    with h5py.File(path, "r+") as file:
        place = data.draw(st.sampled_from(nodes(file)), "place")
        original = read_node(file, place)
        choices: list[Any] = [scalars, arrays(), st.sampled_from(LARGE), st.just({})]
        if isinstance(original, bytes) and original[:1] in (b"{", b"["):
            choices = [json_values(json.loads(original)).map(json.dumps)] * 3 + choices
        if isinstance(original, h5py.Dataset) and original.size and original.dtype.kind in "fiu":
            values = original[...]
            choices += [
                st.sampled_from(
                    [values[:-1] if values.ndim else values, values.astype("f8"), values[None], -values - 5]
                )
            ] * 2
        made_files.put(file, place, data.draw(st.one_of(choices), "value"))
    return place


def tensor(array: np.ndarray) -> Any:
    """As a tensor, where there is such a type."""
    native = array.dtype.newbyteorder("=")  # the only byte order of tensors
    return torch.from_numpy(np.array(array, native)) if array.dtype.kind in "biufc" else array.tolist()

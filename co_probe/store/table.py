"""Conversion of tidy tables to groups of columns."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from co_probe.store.tree import Tree


def to_tree(frame: pd.DataFrame) -> Tree:
    """Convert a table to one array per column, with text as fixed-length UTF-8 for checksums.

    File names that are not UTF-8 keep their bytes.
    """
    columns = {}
    for name in frame:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column):
            columns[str(name)] = column.to_numpy()
        else:
            columns[str(name)] = np.char.encode(column.to_numpy(dtype=str), "utf-8", "surrogateescape")
    return {**columns, "order": "\n".join(map(str, frame.columns))}


def from_tree(tree: Mapping[str, Any]) -> pd.DataFrame:
    """Invert `to_tree`."""
    columns = {}
    for name in filter(None, tree["order"].split("\n")):
        values = tree[name]
        columns[name] = (
            np.char.decode(values, "utf-8", "surrogateescape").astype(object) if values.dtype.kind == "S" else values
        )
    return pd.DataFrame(columns)

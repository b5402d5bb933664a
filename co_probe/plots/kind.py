"""What the command line knows about a figure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

Frames = Mapping[str, pd.DataFrame]
Onsets = Mapping[str, int]  # run -> first epoch of catastrophic overfitting, for the runs that have one


@dataclass(frozen=True)
class Kind:
    """A figure: the tables that it `needs`, by name, and how to `draw` them.

    `against`: the usual attack B of the gap, or what robust means.
    """

    needs: tuple[str, ...]
    draw: Callable[[Frames, Onsets], Figure]
    against: str = "pgd10"

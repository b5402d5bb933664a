"""Initial state of a run, and the state needed to resume after an epoch, as plain arrays."""

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from co_probe.config import Config
from co_probe.config.version import package_version
from co_probe.data.dataset import Dataset
from co_probe.numerics.rng import derive_seed
from co_probe.store.tree import Rows

Tensors = Mapping[str, Any]  # tensors, and numbers, by name


def draw_indices(available: int, wanted: int, seed: int, purpose: str) -> np.ndarray:
    """`wanted` image numbers out of `available` (all, if there are fewer), sorted, int64."""
    rng = np.random.default_rng(derive_seed(seed, purpose))
    return np.sort(rng.permutation(available)[:wanted])


def draw_probe(config: Config, data: Dataset) -> dict[str, np.ndarray]:
    """Draw the images of all diagnostics.

    Args:
        config: The settings of the run.
        data: Its data set.

    Returns:
        Image numbers by split, sorted, int64: `test`, numbers of test images; `train`, of training images that are
        trained on; `validation`, of training images that are held out, if there are any.

    Raises:
        UserError: No training image would be left.
    """
    count, seed, sizes = len(data.train_y), config.seed, config.probe
    index = {"test": draw_indices(len(data.test_y), sizes.test, seed, "probe test")}
    held_out = sizes.held_out(count)
    if not held_out:
        return index | {"train": draw_indices(count, sizes.train, seed, "probe train")}
    # The same images for all seeds: runs of a sweep are then trained and judged on the same ones.
    index["validation"] = draw_indices(count, held_out, 0, "validation")
    left = np.setdiff1d(np.arange(count), index["validation"])
    return index | {"train": left[draw_indices(len(left), sizes.train, seed, "probe train")]}


def environment(device: torch.device, precision: str) -> dict[str, str]:
    """The machine and the versions that a run is made with, and what its network computes in."""
    return {
        "co_probe": package_version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "precision": precision,
    }


def copying_stream(device: torch.device) -> torch.cuda.Stream | None:
    """On a GPU, a stream beside that of training, for `snapshot`."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def snapshot(state: Mapping[str, Any], stream: torch.cuda.Stream | None = None) -> dict[str, Any]:
    """Copies of tensors as they are now, so that training may go on; everything else as it is."""
    return {name: Copy(value, stream) if isinstance(value, Tensor) else value for name, value in state.items()}


class Copy(Rows):
    """A tensor as it is now. The copy stays on its device until rows of it are asked for, in any thread.

    `stream`: on a GPU, the one that rows come over on, for which training does not wait.
    """

    def __init__(self, tensor: Tensor, stream: torch.cuda.Stream | None = None):
        self._copy, self._stream = tensor.detach().clone(memory_format=torch.contiguous_format), stream
        self._made = torch.cuda.current_stream(stream.device).record_event() if stream else None
        self.shape, self.dtype = tuple(tensor.shape), torch.empty(0, dtype=tensor.dtype).numpy().dtype

    def __getitem__(self, rows: Any) -> np.ndarray:
        if self._stream is None or self._made is None:
            return self._copy[rows].cpu().numpy()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._made)
            return self._copy[rows].cpu().numpy()


def tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `snapshot`, of what was stored of it."""
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}

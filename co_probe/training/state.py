"""Initial state of a run, and state to resume it, as plain arrays."""

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
    """Draw at most `wanted` image numbers out of `available`, sorted, int64."""
    rng = np.random.default_rng(derive_seed(seed, purpose))
    return np.sort(rng.permutation(available)[:wanted])


def draw_probe(config: Config, data: Dataset) -> dict[str, np.ndarray]:
    """Draw the images of all diagnostics.

    Args:
        config: Settings of the run.
        data: Data set of the run.

    Returns:
        Sorted image numbers by split, int64: `test`, of test images; `train`, of training images in use; `validation`,
        of held-out training images, if any.

    Raises:
        UserError: No training images would remain.
    """
    count, seed, sizes = len(data.train_y), config.seed, config.probe
    index = {"test": draw_indices(len(data.test_y), sizes.test, seed, "probe test")}
    held_out = sizes.held_out(count)
    if not held_out:
        return index | {"train": draw_indices(count, sizes.train, seed, "probe train")}
    # The same images for all seeds, so that runs of a sweep are comparable.
    index["validation"] = draw_indices(count, held_out, 0, "validation")
    left = np.setdiff1d(np.arange(count), index["validation"])
    return index | {"train": left[draw_indices(len(left), sizes.train, seed, "probe train")]}


def environment(device: torch.device, precision: str) -> dict[str, str]:
    """Return machine, versions and precision of a run."""
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
    """Make a second stream on a GPU, for `snapshot`; None on a CPU."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def snapshot(state: Mapping[str, Any], stream: torch.cuda.Stream | None = None) -> dict[str, Any]:
    """Copy the tensors in `state`, so that training can continue; other values are not copied."""
    return {name: HostCopy(value, stream) if isinstance(value, Tensor) else value for name, value in state.items()}


class HostCopy(Rows):
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
    """Convert stored arrays of a `snapshot` back to tensors."""
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}

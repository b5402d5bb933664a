"""What a run starts from, and what it needs to go on after an epoch, as plain arrays."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from co_probe.methods.base import Method
from co_probe.rng import derive_seed
from co_probe.runs import load_weights
from co_probe.store import RunWriter, StoredRun


def draw_indices(available: int, wanted: int, seed: int, purpose: str) -> np.ndarray:
    """`wanted` image numbers out of `available` (all, if there are fewer), sorted, int64."""
    rng = np.random.default_rng(derive_seed(seed, purpose))
    return np.sort(rng.permutation(available)[:wanted])


def environment(device: torch.device, precision: str) -> dict[str, str]:
    """The machine and the versions that a run is made with, and what its network computes in."""
    return {
        "co_probe": version("co-probe"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "precision": precision,
    }


def momenta(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's momentum of each parameter, by the parameter's name."""
    buffers = {name: optimizer.state[p].get("momentum_buffer") for name, p in model.named_parameters()}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def restore(writer: RunWriter, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method) -> None:
    """Bring everything that learns to where it was after the newest finished epoch.

    Raises UserError if the resume file is missing, DamagedFile if a file does not verify.
    """
    source = f"{writer.path}, epoch {writer.last}"
    load_weights(model, tensors(StoredRun(writer.path).weights(writer.last)), source)
    state = writer.resume_state()
    parameters = dict(model.named_parameters())
    for name, buffer in tensors(state["momentum"]).items():
        # Laid out like its parameter, as the optimizer itself would have it.
        optimizer.state[parameters[name]]["momentum_buffer"] = torch.empty_like(parameters[name]).copy_(buffer).detach()
    method.load_state_dict(tensors(state["method"]))


def snapshot(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as numpy arrays, copied, so that training may go on; everything else as it is."""
    return {k: _copy(v).numpy() if isinstance(v, Tensor) else v for k, v in state.items()}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `snapshot`."""
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}

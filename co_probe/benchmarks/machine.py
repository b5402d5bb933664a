"""The yardstick of a machine's arithmetic, and its name."""

from collections.abc import Callable

import torch

SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices that are multiplied: large enough for full speed


def matrix_product(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], object], int]:
    """A function that multiplies two large matrices, and its floating-point operations."""
    side = SIDE.get(device.type, 1024)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b, 2 * side**3


def device_name(device: torch.device) -> str:
    """As in the environment that runs keep: the GPU's name, or the number of the CPU's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"

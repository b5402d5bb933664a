"""Nothing within an epoch asks the device for a value, which on a GPU means to wait for all that was asked before."""

import pytest
import torch
from conftest import tiny_config
from torch.utils._python_dispatch import TorchDispatchMode

from co_probe.methods import METHODS
from co_probe.training.loop import epochs

# Operations whose result, or its shape, the host must know before it can go on.
WAITING = {"_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero", "unique_dim", "_unique2"}
WAITING |= {"bincount", "repeat_interleave", "argwhere"}


class NoWaiting(TorchDispatchMode):
    """Fails at an operation that would wait, boolean masks as an index included; counts the others."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        masks = name.startswith("index") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in self.indices(args)
        )
        assert name not in WAITING and not masks, f"{func} waits for the device"
        self.count += 1
        return func(*args, **(kwargs or {}))

    @staticmethod
    def indices(args):
        return [i for arg in args[1:2] if isinstance(arg, list | tuple) for i in arg]


@pytest.mark.parametrize("act", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.sum()), torch.nonzero])
def test_waiting_for_the_device_is_detected(act):
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        act(torch.ones(3))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "shrink"])  # which has data of its own
def test_no_method_waits_within_an_epoch(name, tmp_path):
    """From the end of the first batch to that of the last: the loop's own statements, and every method's steps."""
    mode = NoWaiting()

    def watch(epoch: int, done: int, total: int) -> None:
        if done == 256:
            mode.__enter__()
        elif done == total:
            mode.__exit__(None, None, None)

    config = tiny_config(name, epochs=8 if name == "free" else 1, probe={"test": 10, "train": 10})
    list(epochs(config, tmp_path / "run", device="cpu", progress=watch))
    assert mode.count > 100

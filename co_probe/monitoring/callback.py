"""Common base of the callbacks for training frameworks."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from co_probe.errors import UserError
from co_probe.monitoring.monitor import Monitor

OnAlarm = Literal["stop", "log"] | Callable[[Any, Any, Monitor], object]


class MonitorCallback:
    """Makes a `Monitor` when training starts, and reports its alarm once.

    Args:
        epsilon: Norm bound of perturbations, in units of the images.
        probe: Images and labels held out of training, as in `Monitor`; None measures nothing.
        on_alarm: `stop`, `log`, or a function.
        network: Name of the submodule that a training step calls (`net`, `model.backbone`); the model itself if empty.
        **settings: Further arguments of `Monitor`.

    Attributes:
        monitor: The `Monitor`, from the start of training on.

    Raises:
        UserError: If `on_alarm` has another value.
    """

    def __init__(
        self, *, epsilon: float, probe: Any = None, on_alarm: OnAlarm = "stop", network: str = "", **settings: Any
    ):
        super().__init__()
        if on_alarm not in ("stop", "log") and not callable(on_alarm):
            raise UserError(f"on_alarm must be 'stop', 'log' or a function, not {on_alarm!r}")
        self.monitor: Monitor | None = None
        self._on_alarm, self._network, self._fired = on_alarm, network, False
        self._settings = {"epsilon": epsilon, "probe": probe, **settings}

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Make the monitor. Raises UserError if the model has no submodule of the given name."""
        try:
            network: nn.Module = model.get_submodule(self._network)
        except AttributeError as error:
            raise UserError(f"the module has no submodule {self._network!r}: {error}") from error
        self.monitor, self._fired = Monitor(network, optimizer, **self._settings), False

    def fires(self) -> bool:
        """Return whether an alarm has come since the last call; True at most once."""
        if self._fired or self.monitor is None or not self.monitor.alarm:
            return False
        self._fired = True
        return True

    def close(self) -> None:
        """Remove the hooks and finish the run."""
        if self.monitor is not None:
            self.monitor.close()

"""The monitor as a Lightning callback; needs the package `lightning`."""

from typing import Any

from co_probe.errors import UserError
from co_probe.monitoring.callback import MonitorCallback

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    raise UserError("the callback needs Lightning: pip install lightning, or use co_probe.Monitor without it") from None


class CatastrophicOverfitting(MonitorCallback, Callback):
    """Monitors the training of a LightningModule that perturbs its batches itself.

    Args:
        epsilon: Norm bound of perturbations, in units of the images.
        probe: Images and labels held out of training, as `Monitor` takes them; None measures nothing.
        on_alarm: `stop` ends training after the batch, `log` only logs; or a function (trainer, module, monitor).
        network: Name of the submodule that `training_step` calls (`net`, `model.backbone`); the LightningModule itself
            if empty, for steps that call `self(x)`.
        **settings: Further arguments of `Monitor`: `out="runs/mine"`, `normalise=...`.

    Attributes:
        monitor: The `Monitor`, from the start of training on.

    Raises:
        UserError: `on_alarm` is none of these, or the module has no such submodule.

    Note:
        Metrics of each epoch are logged as `co/pgd10`, `co/train_pert_alignment` and so on; `co/alarm` is 1 from the
        alarm on. With several optimizers, steps of the first one are counted.

    Example:
        >>> trainer = Trainer(callbacks=[CatastrophicOverfitting(epsilon=8 / 255, probe=(x_val, y_val))])
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Install hooks on the network and the optimizer."""
        self.start(pl_module, trainer.optimizers[0])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Handle an alarm, once."""
        if self.monitor is None or not self.fires():
            return
        pl_module.log("co/alarm", 1.0)
        if self._on_alarm == "stop":
            trainer.should_stop = True
        elif callable(self._on_alarm):
            self._on_alarm(trainer, pl_module, self.monitor)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the network and log the metrics."""
        if self.monitor is not None:
            found = self.monitor.epoch()
            pl_module.log_dict({f"co/{name}": value for name, value in found.items()})
            pl_module.log("co/alarm", float(bool(self.monitor.alarm)))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Remove the hooks and finish the run."""
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Remove the hooks and finish the run when training fails."""
        self.close()

"""The monitor as a callback of the Hugging Face Trainer; needs the package `transformers`."""

from typing import Any

from co_probe.errors import UserError
from co_probe.monitoring.callback import MonitorCallback

try:
    from transformers import TrainerCallback
except ImportError:
    raise UserError(
        "the callback needs transformers: pip install transformers accelerate, or use co_probe.Monitor without it"
    ) from None


class CatastrophicOverfitting(MonitorCallback, TrainerCallback):
    """Monitors a `transformers.Trainer` whose `training_step` perturbs its batches.

    Args:
        epsilon: Norm bound of perturbations, in units of the images.
        probe: Images and labels held out of training, as `Monitor` takes them; None measures nothing.
        on_alarm: `stop` ends training after the step, `log` only logs; or a function (state, control, monitor).
        network: Name of the submodule that `training_step` calls; the model itself if empty.
        **settings: Further arguments of `Monitor`: `out="runs/mine"`, `normalise=...`.

    Attributes:
        monitor: The `Monitor`, from the start of training on.

    Raises:
        UserError: If `on_alarm` has another value, or the model has no such submodule.

    Note:
        Metrics of each epoch are added to `trainer.state.log_history` as `co/pgd10`, `co/train_pert_alignment` and so
        on, and an alarm as `co/alarm` with its reason. For loggers give `log=wandb.log` or the like.

    Example:
        >>> trainer = MyTrainer(model, arguments, train_dataset=images, callbacks=[
        ...     CatastrophicOverfitting(epsilon=8 / 255, probe=(x_val, y_val))
        ... ])
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Install hooks on the network and the optimizer, which accelerate has wrapped."""
        optimizer = objects["optimizer"]
        self.start(objects["model"], getattr(optimizer, "optimizer", optimizer))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Handle an alarm, once."""
        if self.monitor is None or not self.fires():
            return
        state.log_history.append({"step": state.global_step, "co/alarm": self.monitor.alarm.reason})
        if self._on_alarm == "stop":
            control.should_training_stop = True
        elif callable(self._on_alarm):
            self._on_alarm(state, control, self.monitor)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure the network and add the metrics to the history."""
        if self.monitor is not None:
            found = {f"co/{name}": value for name, value in self.monitor.epoch().items()}
            state.log_history.append({"step": state.global_step, "epoch": state.epoch, **found})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove the hooks and finish the run."""
        self.close()

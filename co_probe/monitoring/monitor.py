"""`Monitor`: two lines in any PyTorch training loop."""

import atexit
import copy
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from co_probe.attacks import PGD, Perturbation
from co_probe.attacks.named import named_attack
from co_probe.config.ball import check_ball
from co_probe.data.coerce import check_labels, coerce
from co_probe.data.dataset import to_unit
from co_probe.data.normalisation import as_normalisation
from co_probe.errors import UserError
from co_probe.indicators.alarm import Alarm
from co_probe.indicators.passes import PassObserver
from co_probe.inference.evaluation import Outcome, outcome, perturb
from co_probe.monitoring.perturbation_size import PerturbationSize
from co_probe.monitoring.recording import Recording
from co_probe.monitoring.step_values import StepValues, means
from co_probe.monitoring.unwrapping import MeasuredModel, unwrapped
from co_probe.numerics.rng import make_rng
from co_probe.runs.training_attack import AttackLike, training_attack
from co_probe.store import check_no_run
from co_probe.training.metrics import measure

CHECKED = 128  # number of probe images to confirm an alarm
FALLEN = 0.05  # fall of accuracy under PGD-10 from its best that confirms an alarm
PATIENCE = 2  # windows without an attack and an update before a warning


class Metrics(dict[str, float]):
    """Metrics by name; `print` shows the most important ones in a line."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {value:.4g}" for name, value in self.items()) + "}"

    def __str__(self) -> str:
        labels = {"clean": "clean", "fgsm": "FGSM", "pgd10": "PGD-10"}
        parts = [f"{label} {self[name]:.1%}" for name, label in labels.items() if name in self]
        parts += [f"gap {self['gap']:.2f} nats"] if "gap" in self else []
        parts += [f"PertAlign {self['train_pert_alignment']:.2f}"] if "train_pert_alignment" in self else []
        return ", ".join(parts) or repr(self)


class Monitor:
    """Observes a training loop through hooks, raises the alarm before a collapse, and records the run.

    In each optimizer step it records input gradients and logits of the first pass (the attack) and the last (the
    update), and computes indicators that cost no pass (`co_probe.indicators`) once per window of updates. Weights,
    gradients, BatchNorm statistics, modes and random numbers do not change; the update pass additionally computes the
    gradient of its input, if the loop does not.

    Args:
        model: Module that the loop calls: the `DataParallel`, `DistributedDataParallel` or compiled module if there is
            one.
        optimizer: Optimizer, whose step ends a training step.
        epsilon: Norm bound of perturbations, in units of the images: 8/255, not 8.
        norm: Norm that ε bounds: `linf`, every pixel, or `l2`, the Euclidean norm of the perturbation.
        bounds: Least and greatest value of a pixel.
        probe: Images and labels held out of training, for `epoch` and to confirm alarms: a pair of tensors or arrays, a
            data set or a loader; within `bounds` and not normalised. With None nothing is measured.
        images: Greatest number of probe images to use.
        normalise: Normalisation in the loop before the model: (mean, std), or the name of a data set; None if the model
            takes images within `bounds`.
        out: Folder of the run to write, which includes the probe images; None to write no run.
        overwrite: Delete an existing run in `out`.
        resume: Continue an existing run in `out`.
        method: Name of the training method in tables and figures.
        data: Name of the data set in tables and figures.
        attack: Training attack, if known: the name of a method or an attack (`fgsm-rs`), or a function (model, x, y) ->
            δ.
        classes: Names of the classes, in the order of the logits.
        alarm: Detector of the alarm; `Alarm()` if None. Its `window` is the number of updates between evaluations.
        log: Function of a dict of numbers, called after each window and each epoch, such as `wandb.log`.
        snapshots: Number of windows for `rollback`, each with a copy of weights and optimizer; 0 for none.

    Attributes:
        alarm: True once it has fired; `alarm.reason` says why, `alarm.step` when.
        confirmed: Whether accuracy under PGD-10 on 128 probe images confirms the last alarm; None without probe images
            or alarm. False is common, since the alarm comes first.
        steps: Number of optimizer steps so far.
        metrics: Results of `epoch`, per epoch.

    Raises:
        UserError: An argument cannot be used.

    Note:
        Cost: the input gradient of the first layer, and the indicators: on a CPU, below 1% of a step of PreActResNet18,
        and 5% of a step of 20 ms (`co-probe bench --parts indicators`). An alarm is confirmed by one FGSM and one
        PGD-10 attack on 128 images: 13 forward and 11 backward passes, once. In a process group, numbers are means over
        processes, so all processes have the same alarm; the first one measures and records.

    Example:
        >>> monitor = co_probe.Monitor(model, optimizer, epsilon=8 / 255, probe=(x_val, y_val), out="runs/mine")
        >>> for epoch in range(30):
        ...     for x, y in loader:
        ...         train_step(model, optimizer, x, y)
        ...         if monitor.alarm:
        ...             raise SystemExit(monitor.alarm.reason)
        ...     monitor.epoch()
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        epsilon: float,
        norm: str = "linf",
        bounds: tuple[float, float] = (0.0, 1.0),
        probe: Any = None,
        images: int = 1000,
        normalise: Any = None,
        out: str | Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
        method: str = "monitored",
        data: str = "your probe images",
        attack: AttackLike | None = None,
        classes: Sequence[str] | None = None,
        alarm: Alarm | None = None,
        log: Callable[[dict[str, float]], object] | None = None,
        snapshots: int = 0,
    ):
        check_ball(epsilon, norm, bounds)
        if out is not None and probe is None:
            raise UserError("a run needs probe images to be measured on: give probe=(x, y), or leave out=None")
        if not isinstance(model, nn.Module):
            raise UserError(f"the model must be a torch.nn.Module, not {type(model).__name__}")
        self.epsilon, self.norm, self.bounds = epsilon, norm, bounds
        self.alarm = Alarm() if alarm is None else alarm
        self.confirmed: bool | None = None
        self.steps, self.metrics = 0, list[dict[str, float]]()
        self._model, self._optimizer, self._log = model, optimizer, log
        self._main = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
        self._probe = None if probe is None else coerce(probe, count=images, bounds=bounds)
        channels = None if self._probe is None else self._probe.x.shape[1]
        constants = None if normalise is None else as_normalisation(normalise, channels)
        self._mean = None if constants is None else constants.mean
        self._std = None if constants is None else constants.std
        self._attack = None if attack is None else training_attack(attack, epsilon=epsilon, norm=norm, bounds=bounds)
        self._recording = None
        if out is not None and self._probe is not None and self._main:
            self._recording = Recording(
                out=Path(out).absolute(),
                probe=self._probe,
                epsilon=epsilon,
                norm=norm,
                bounds=bounds,
                method=method,
                data=data,
                attack=self._attack.name if self._attack else None,
                classes=classes,
                mean=self._mean,
                std=self._std,
                overwrite=overwrite,
                resume=resume,
            )
            check_no_run(self._recording.out, resume=resume, overwrite=overwrite)
            atexit.register(self.close)
        self._values, self._labels = StepValues(), list[Tensor]()
        self._series: list[dict[str, np.ndarray]] = []  # all windows since the start
        self._unrecorded = 0  # index of the first window of this epoch
        self._explicit, self._idle = False, 0
        self._best_pgd, self._classes = float("nan"), 0
        self._snapshots: deque[tuple[int, Any, Any]] = deque(maxlen=snapshots + 1 if snapshots else 0)
        self._observer = PassObserver(model)
        self._size: PerturbationSize | None = PerturbationSize(norm, self._std)  # of the first window
        self._observer.holds_inputs = True
        self._hook = optimizer.register_step_post_hook(self._after_step)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def series(self) -> dict[str, np.ndarray]:
        """Indicators of all steps of finished windows, {name: (steps,) float32}."""
        if not self._series:
            return {}
        return {name: np.concatenate([part[name] for part in self._series]) for name in self._series[0]}

    def labels(self, y: Tensor) -> None:
        """Set the classes of a batch, (B,), before the optimizer step; with accumulation, of each batch.

        Only needed for losses other than the cross-entropy, from whose gradient the classes follow.
        """
        self._labels.append(y.detach())

    def step(
        self,
        *,
        attack_gradient: Tensor | None = None,
        update_gradient: Tensor | None = None,
        losses: tuple[Tensor, Tensor] | None = None,
        logits: tuple[Tensor, Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> bool:
        """Record a step explicitly, for loops that hooks cannot observe; call it once per optimizer step.

        Hooks are not used after the first call. All arguments are optional; PertAlign, on which the alarm is based,
        needs both gradients.

        Args:
            attack_gradient: Input gradient that the attack used, (B, ...).
            update_gradient: Input gradient of the training loss at the perturbed images, of the same shape; for the
                linearity ratio also of the same scale.
            losses: Losses before and after the attack, per image, (B,), or as means, which give no share of abnormal
                examples.
            logits: Logits at the same two points, (B, classes).
            labels: Classes, (B,).

        Returns:
            Whether the alarm has fired.
        """
        if not self._explicit:  # discard observations of hooks
            self._explicit, self.steps, self._values = True, 0, StepValues()
            self._observer.remove()
        self._values.add_given((attack_gradient, update_gradient), losses, logits, labels)
        self._count_step()
        return bool(self.alarm)

    def epoch(self, **metrics: float) -> dict[str, float]:
        """Measure the model on the probe images, in eval mode, and store the epoch.

        Args:
            **metrics: Metrics of the loop to store with the epoch: `train_loss=...`.

        Returns:
            MeasuredModel metrics (`clean`, `fgsm`, `pgd10`, `train_attack` under `attack`, `gap`), means of the step
            indicators of the epoch as `train_...`, and `metrics`.

        Raises:
            UserError: The model does not accept the probe images, or the run cannot be written.
        """
        self._end_window()
        recent, self._unrecorded = self._series[self._unrecorded :], len(self._series)
        steps = {name: np.concatenate([part[name] for part in recent]) for name in recent[0]} if recent else {}
        found = means({name.removeprefix("train_"): values for name, values in steps.items()})
        result: dict[str, float] = {f"train_{name}": value for name, value in found.items()}
        if self._main and self._probe is not None:
            with self._measuring() as model:
                x, y = self._probe_images()
                own = self._attack.perturb if self._attack else None
                if not self._classes:
                    model(x[:1])
                    check_labels(y, "probe", model.classes)
                measured = measure(
                    model, x, y, epsilon=self.epsilon, norm=self.norm, bounds=self.bounds, train_attack=own
                ).to_dict()
                self._classes = model.classes
            self._best_pgd = max(measured["pgd10"], self._best_pgd if self.metrics else 0.0)
            result |= measured
        result |= {name: float(value) for name, value in metrics.items()}
        result = Metrics(result)
        self.metrics.append(result)
        if self._recording:
            self._recording.epoch(unwrapped(self._model), self._classes, result, steps)
        if self._log and self._main:
            self._log({"epoch": float(len(self.metrics)), **result})
        return result

    def rollback(self) -> int:
        """Restore weights and optimizer from before the fall that caused the alarm, and clear the alarm.

        Returns:
            The step of the snapshot: the newest one at least two windows before the alarm.

        Raises:
            UserError: No snapshot is old enough; increase `Monitor(snapshots=...)`.
        """
        end = (self.alarm.step or self.steps) - 2 * self.alarm.window
        while self._snapshots and self._snapshots[-1][0] > end:
            self._snapshots.pop()
        if not self._snapshots:
            raise UserError("there is no snapshot from before the alarm: make the monitor with snapshots=5, or more")
        step, weights, state = self._snapshots[-1]
        self._model.load_state_dict(weights)
        self._optimizer.load_state_dict(copy.deepcopy(state))
        self.alarm.reset()
        self.confirmed = None
        return step

    def close(self) -> None:
        """Remove the hooks and finish the run in `out`."""
        self._observer.remove()
        self._hook.remove()
        atexit.unregister(self.close)
        if self._recording:
            self._recording.close()

    def _after_step(self, *_: object) -> None:
        if self._explicit:
            return
        labels, self._labels = self._labels, []
        passes = self._observer.take_passes()
        if passes and self._probe is not None and not self._classes:
            self._classes = passes[0].logits.shape[1]
            check_labels(self._probe.y, "probe", self._classes)
        if self._size is not None:
            self._size.add(passes)
        self._values.add(passes, torch.cat(labels) if labels else None)
        self._count_step()

    def _count_step(self) -> None:
        self.steps += 1
        if self.steps % self.alarm.window == 0:  # in phase with the windows of the alarm, regardless of ends of epochs
            self._end_window()
            if self._snapshots.maxlen:
                state = copy.deepcopy(self._optimizer.state_dict())
                weights = {k: v.detach().clone() for k, v in self._model.state_dict().items() if isinstance(v, Tensor)}
                self._snapshots.append((self.steps, weights, state))

    def _end_window(self) -> None:
        """Fetch the values of the window and update the alarm."""
        values = self._values.take(self._device)
        if not values:
            return
        self._check_size()
        self._series.append(values)
        first = self.steps - len(values["loss"]) + 1
        fired = False
        for offset in range(len(values["loss"])):
            fired |= self.alarm.update(
                step=first + offset,
                alignment=float(values["pert_alignment"][offset]),
                train_accuracy=float(values["train_accuracy"][offset]),
                train_loss=float(values["loss"][offset]),
                loss_gain=float(values["loss_gain"][offset]),
                abnormal=float(values["abnormal"][offset]),
            )
        self._warn_without_data(values)
        if self._log and self._main:
            self._log({"step": float(self.steps), **means(values), "alarm": float(bool(self.alarm))})
        if fired and self._main and self._probe is not None:
            self._confirm()

    def _check_size(self) -> None:
        """Warn once if the perturbations of the first window exceed ε."""
        if self._size is None:
            return
        size, self._size, self._observer.holds_inputs = self._size.largest(), None, False
        if size > 2.05 * self.epsilon:  # with a random start up to 2ε
            warnings.warn(
                f"co_probe.Monitor has epsilon={self.epsilon:.4g}, but the loop moves images by up to {size:.4g} "
                f"({self.norm}): is epsilon, or normalise, right?",
                stacklevel=4,
            )

    def _warn_without_data(self, values: dict[str, np.ndarray]) -> None:
        """Warn once that the alarm has no data."""
        if self._idle < 0:
            return
        self._idle = -1 if np.isfinite(values["pert_alignment"]).any() else self._idle + 1
        if self._idle < PATIENCE:
            return
        self._idle = -1
        if not self._values.seen:
            reason = (
                "no optimizer step had an attack and an update that hooks could see: pass the module that the loop "
                "calls (the wrapped or compiled one), or call monitor.step(...)"
            )
        else:
            reason = (
                "the first and the last pass of the steps were over different images: with gradient accumulation, "
                "detach the perturbed images before the update, or call monitor.step(...)"
            )
        warnings.warn(f"co_probe.Monitor cannot raise an alarm: {reason}", stacklevel=4)

    def _confirm(self) -> None:
        with self._measuring() as model:
            x, y = (part[:CHECKED] for part in self._probe_images())
            pgd = PGD(epsilon=self.epsilon, steps=10, norm=self.norm, bounds=self.bounds)
            single = named_attack("fgsm", self.epsilon, self.norm, self.bounds)
            strong, weak = (self._under(model, attack, x, y).accuracy for attack in (pgd, single))
        self.confirmed = bool(strong <= self._best_pgd - FALLEN)  # False if no epoch was measured
        best = f", at best {self._best_pgd:.0%}" if self._best_pgd == self._best_pgd else ""
        seen = "confirmed" if self.confirmed else "not confirmed yet"
        self.alarm.reason += (
            f"; {seen} by accuracy on {len(y)} probe images: PGD-10 {strong:.0%}{best}, FGSM {weak:.0%}"
        )

    def _under(self, model: nn.Module, attack: Perturbation, x: Tensor, y: Tensor) -> Outcome:
        delta = perturb(model, attack, x, y, make_rng(x.device, 0, "probe"))
        return outcome(model, x, y, delta, self.bounds)

    @contextmanager
    def _measuring(self) -> Iterator[MeasuredModel]:
        """Give the network for a measurement, without hooks and without effect on random numbers of the loop."""
        on, self._observer.on = self._observer.on, False
        network = unwrapped(self._model)
        devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
        with torch.random.fork_rng(devices=[device.index for device in devices if device.index is not None]):
            try:
                yield MeasuredModel(network, self._mean, self._std)
            finally:
                self._observer.on = on

    def _probe_images(self) -> tuple[Tensor, Tensor]:
        assert self._probe is not None
        return to_unit(self._probe.x).to(self._device), self._probe.y.to(self._device)

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self._model.parameters()), torch.device("cpu"))

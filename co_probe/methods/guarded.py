"""A single-step method that is replaced by a remedy when the alarm fires."""

import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from co_probe import attacks
from co_probe.attacks import Model, Rng
from co_probe.config.labels import NORMS
from co_probe.config.settings import GUARDS
from co_probe.errors import Stopped
from co_probe.indicators.alarm import Alarm
from co_probe.indicators.steps import StepSeries
from co_probe.methods.base import Batch, Method, StepResult, TrainingContext
from co_probe.methods.n_fgsm import NFGSM

BACK = 4  # number of windows that a rollback goes back from the alarm


@dataclass(eq=False, kw_only=True)
class PGD2(Method):
    """PGD with two steps of ε/2 from a random start."""

    norms = tuple(NORMS)

    @override
    def attack_at(self, epsilon: float) -> attacks.PGD:
        return attacks.PGD(epsilon=epsilon, steps=2, step_size=epsilon / 2, norm=self.norm, bounds=self.bounds)


@dataclass(eq=False, kw_only=True)
class Guarded(Method):
    """Trains with a method until the alarm fires, and with a remedy for the rest of the run.

    The switch happens between two optimizer steps, at the end of the window of updates in which the alarm fired.

    Args:
        inner: The method, whose steps must have an attack and an update (not clean training or Free).
        remedy: `pgd2` continues with two steps of ε/2; `n-fgsm` with N-FGSM; `rollback` first restores weights and
            BatchNorm statistics of four windows before, then continues as `pgd2` (the optimizer's momentum is not
            restored); `stop` raises `Stopped`.

    Raises:
        ValueError: If the remedy is unknown, or the method has no pair of passes to observe.

    Reference:
        The repository adversarial-robustness-co-monitor reports on five seeds on CIFAR-10 that switching to PGD-2 at
        once suffices, and that rollback has no measurable additional benefit.
    """

    norms = tuple(NORMS)
    inner: Method
    remedy: str = "pgd2"
    _past: deque[dict[str, Tensor]] = field(default_factory=lambda: deque(maxlen=BACK), init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.remedy not in GUARDS:
            raise ValueError(f"a guard must be one of {', '.join(GUARDS)}, not {self.remedy!r}")
        if self.inner.replays > 1 or type(self.inner).__name__ == "Standard":
            raise ValueError("a guard watches steps with an attack and an update, which this method does not have")
        self._then: Method = (NFGSM if self.remedy == "n-fgsm" else PGD2)(norm=self.norm, bounds=self.bounds)
        self.switched = 0  # step of the switch; 0 before it
        self._steps, self._losses = 0, list[Tensor]()
        self._alarm = Alarm()
        self._seen: Tensor | None = None  # means of the window that ended with the last step
        self._series: StepSeries | None = None

    @property
    def current(self) -> Method:
        """The method in use."""
        return self._then if self.switched else self.inner

    @override
    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        self._model, self._series = model, StepSeries(model)
        self.inner.setup(model, context)

    @override
    def start_stage(self, context: TrainingContext) -> None:
        self.inner.start_stage(context)

    @override
    def start_epoch(self, epoch: int, rng: torch.Generator) -> None:
        self.current.start_epoch(epoch, rng)

    @override
    def attack_at(self, epsilon: float) -> attacks.Attack | None:
        return self.current.attack_at(epsilon)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        return self.current.perturb(model, x, y, epsilon=epsilon, rng=rng, state=state)

    @override
    def generator_at(self, epsilon: float) -> Callable[..., Tensor]:
        return self.current.generator_at(epsilon)

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        self._steps += 1
        if self.switched or self._series is None:
            return self.current.step(model, batch)
        with self._series.step(batch.y):
            result = self.inner.step(model, batch)
        self._losses.append(result.loss)
        if len(self._losses) >= self._alarm.window:
            loss, self._losses = torch.stack(self._losses).mean(), []
            found = self._series.take()
            alignment, gain = (found[name].nanmean() for name in ("pert_alignment", "loss_gain"))
            self._seen = torch.stack([alignment, loss.float(), gain])
        return result

    @override
    def to_average(self) -> Sequence[Tensor]:
        return [*self.current.to_average(), *([] if self._seen is None else [self._seen])]

    @override
    def update(self) -> None:
        self.current.update()
        if self._seen is not None:
            seen, self._seen = self._seen, None
            self._look(seen.tolist())

    def _look(self, values: list[float]) -> None:
        """Update the alarm with the means of a window: alignment, loss and loss gain."""
        fired = self._alarm.update(step=self._steps, alignment=values[0], train_loss=values[1], loss_gain=values[2])
        if fired:
            self._switch()
        elif self.remedy == "rollback":
            self._past.append({name: value.clone() for name, value in self._model.state_dict().items()})

    def _switch(self) -> None:
        if self.remedy == "stop":
            raise Stopped(f"stopped by the guard at {self._alarm.reason}", self._steps)
        self.switched = self._steps
        if self.remedy == "rollback" and self._past:
            self._model.load_state_dict(self._past[0])
            self._past.clear()
        print(f"guard ({self.remedy}): {self._alarm.reason}", file=sys.stderr, flush=True)

    @override
    def parameters(self) -> dict[str, dict[str, float]]:
        return {**self.inner.parameters(), "guard": {"step": float(self.switched)}}

    @override
    def load_parameters(self, parameters: dict[str, dict[str, float]]) -> None:
        self.switched = int(parameters["guard"]["step"])
        self.inner.load_parameters({name: part for name, part in parameters.items() if name != "guard"})

    @override
    def image_state(self, index: Tensor) -> Tensor | None:
        return None if self.switched else self.inner.image_state(index)

    @override
    def state_dict(self) -> dict[str, Any]:
        # The history of the alarm is not stored: after resuming it needs eight windows before it can fire.
        return {**self.inner.state_dict(), "guard_switched": float(self.switched), "guard_steps": float(self._steps)}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.switched, self._steps = int(state["guard_switched"]), int(state["guard_steps"])
        self.inner.load_state_dict({name: value for name, value in state.items() if not name.startswith("guard_")})

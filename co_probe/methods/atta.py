"""ATTA: adversarial training that goes on with each image's perturbation of the last epoch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from co_probe.attacks import Rng, input_gradient, project
from co_probe.data.augment import centre
from co_probe.methods.base import Batch, Method, StepResult, Task, descend


@dataclass(eq=False, kw_only=True)
class ATTA(Method):
    """ATTA-K: K steps δ ← Π(δ + α · sign ∇ₓL(x + δ)) from the δ that the image had in the last epoch.

    δ is kept for each padded training image: the crop and flip of the day are cut out of it, and written back to the
    same pixels afterwards. It starts from `initial_noise` · N(0, 1) (pixel units), and does so again at the start of
    epochs R, 2R, 3R, ... and where images come to another size. Π projects to the ε-ball and to x + δ in [0, 1];
    unseen images start from δ = 0.
    `steps`: K; `step_size`: α in pixel units (if not given ε/2 for K = 1, ε/3 for K ≤ 3, ε/4 for more: the authors'
    settings, rounded); `reset`: R.
    Raises ValueError for a setting out of range, or if δ does not fit into memory. Source: Zheng et al. (2020),
    "Efficient adversarial training with transferable adversarial examples", section 4; the starting noise, the epochs
    of resets, and perturbing in eval mode are as in their code.
    """

    batchnorm: str = "eval"
    steps: int = 1
    step_size: float | None = None
    reset: int = 10
    initial_noise: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        if self.steps < 1 or self.reset < 1 or (self.step_size is not None and not self.step_size > 0):
            raise ValueError("steps, reset and step_size must be greater than 0")
        if self.initial_noise < 0:
            raise ValueError(f"initial_noise must not be negative, not {self.initial_noise:g}")

    @property
    def alpha(self) -> float:
        """The step size in pixel units."""
        share = 2 if self.steps == 1 else 3 if self.steps <= 3 else 4
        return self.epsilon / share if self.step_size is None else self.step_size

    def setup(self, model: nn.Module, task: Task) -> None:
        self.start_phase(task)

    def start_phase(self, task: Task) -> None:
        self.padding = task.padding
        self.delta = torch.empty(0)  # the old one must not take memory beside the new one
        self.delta = task.new_store()
        self._start_afresh(task.rng)

    def start_epoch(self, epoch: int, rng: torch.Generator) -> None:
        if epoch % self.reset == 0:
            self._start_afresh(rng)

    def _start_afresh(self, rng: torch.Generator) -> None:
        self.delta.normal_(0, self.initial_noise, generator=rng)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, rng: Rng = None, state: Tensor | None = None) -> Tensor:
        delta = project(torch.zeros_like(x) if state is None else state, x, self.epsilon, self.bounds)
        for _ in range(self.steps):
            delta = project(
                delta + self.alpha * input_gradient(model, x + delta, y).sign(), x, self.epsilon, self.bounds
            )
        return delta

    def step(self, model: nn.Module, batch: Batch) -> StepResult:
        with self.perturbation_pass(model):
            delta = self.perturb(model, batch.x, batch.y, batch.rng, batch.view.take(self.delta))
        batch.view.put(self.delta, delta)
        return descend(model, (batch.x + delta).clamp(*self.bounds), batch.y)

    def image_state(self, index: Tensor) -> Tensor:
        return centre(self.delta[index], self.padding)

    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.delta.copy_(state["delta"])

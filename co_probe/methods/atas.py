"""ATAS: ATTA with a step size per image, from a moving average of its gradient norm."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, input_gradient, project
from co_probe.attacks.base import Model, lengths
from co_probe.data.augment import centre
from co_probe.methods.base import Batch, Method, StepResult, TrainingContext, check_positive, forward_backward


@dataclass(eq=False, kw_only=True)
class ATAS(Method):
    """ATAS: δ ← Π(δ + α_i · sign g) with g = ∇ₓL(x + δ), starting at the image's δ of the last epoch.

    For image i, v_i ← β·v_i + (1 − β)·‖g‖² and α_i = γ/(1 + √v_i/c), clipped to [α_min, α_max]; in the first `warmup`
    epochs v_i stays 0 and α_i = ε. δ is stored for each padded training image and cropped and flipped with it, as in
    ATTA. It is drawn from U(−ε, ε) at the start, at the start of epochs R, 2R, ... except the last, and when images
    change their size; v_i is retained. Π projects onto the ε-ball and x + δ onto the bounds. For images outside the
    training set δ starts at 0, and v_i = ‖g‖². Cost: 5 passes, as FGSM.

    Units: lengths are in units of ε. The released code has γ = 16/255, α_min = 4/255 and α_max = 14/255 at every ε,
    which are the defaults here at ε = 8/255. Its c = 0.01 is compared with the gradient of the mean loss of a batch of
    128, so c = 1.28 here, where g is the gradient of the image's own loss, and no longer depends on the batch size.

    Args:
        relative_step: γ, in units of ε.
        least: α_min, in units of ε.
        most: α_max, in units of ε.
        scale: c, in nats per unit of L2 pixel length.
        momentum: β.
        warmup: Number of initial epochs with a step of ε.
        reset: R, in epochs.

    Raises:
        ValueError: If a setting is out of range or, in `setup`, δ does not fit into memory.

    Reference:
        Huang et al. (2022), "Fast adversarial training with adaptive step size", https://arxiv.org/abs/2206.02417;
        github.com/HuangZhiChao95/ATAS, with the same perturbations and perturbing in eval mode.
    """

    batchnorm: str = "eval"
    relative_step: float = 2.0
    least: float = 0.5
    most: float = 1.75
    scale: float = 1.28
    momentum: float = 0.5
    warmup: int = 5
    reset: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(relative_step=self.relative_step, least=self.least, scale=self.scale, reset=self.reset)
        if not self.most >= self.least:
            raise ValueError(f"most must not be less than least = {self.least:g}, and is {self.most:g}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and less than 1, not {self.momentum:g}")
        self.adaptive = True
        self.moment = torch.zeros(0)  # v

    @override
    def start_stage(self, context: TrainingContext) -> None:
        self.padding, self.epsilon, self.epochs = context.padding, context.epsilon, context.epochs
        self.delta = torch.empty(0)  # free the old one before allocating
        self.delta = context.new_store()
        self._reset(context.rng)
        if not len(self.moment):
            self.moment = torch.zeros(context.images, device=context.device)

    @override
    def start_epoch(self, epoch: int, rng: torch.Generator) -> None:
        self.adaptive = epoch > self.warmup
        if epoch % self.reset == 0 and epoch < self.epochs:
            self._reset(rng)

    def _reset(self, rng: torch.Generator) -> None:
        self.delta.uniform_(-self.epsilon, self.epsilon, generator=rng)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        return self._perturb(model, x, y, epsilon, state, None)[0]

    def _perturb(
        self, model: Model, x: Tensor, y: Tensor, epsilon: float, start: Tensor | None, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return δ and the updated v, (B,), from which its steps follow; `past` is the previous v."""
        delta = torch.zeros_like(x) if start is None else project(start.to(x.dtype), x, epsilon, self.bounds)
        gradient = input_gradient(model, x + delta, y)
        moment = lengths(gradient).square().flatten()
        if past is not None:
            moment = torch.lerp(moment, past.to(moment), self.momentum)
        step = (self.relative_step / (1 + moment.sqrt() / self.scale)).clamp(self.least, self.most)
        size = epsilon * step[:, None, None, None] if self.adaptive else epsilon
        return project(delta + size * gradient.sign(), x, epsilon, self.bounds), moment

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        view, inner = batch.view, self.perturbing(model)
        index = view.index.to(self.moment.device)
        state, past = view.take(self.delta), self.moment[index]
        delta, moment = self._perturb(inner, batch.x, batch.y, batch.epsilon, state, past)
        view.put(self.delta, delta)
        if self.adaptive:
            self.moment[index] = moment.to(self.moment)
        return forward_backward(model, self.clip(batch.x + delta), batch)

    @override
    def parameters(self) -> dict[str, dict[str, float]]:
        return {"atas": {"adaptive": float(self.adaptive)}}

    @override
    def load_parameters(self, parameters: dict[str, dict[str, float]]) -> None:
        self.adaptive = bool(parameters["atas"]["adaptive"])

    @override
    def image_state(self, index: Tensor) -> Tensor:
        return centre(self.delta[index], self.padding)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta, "moment": self.moment}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.delta.copy_(state["delta"])
        self.moment.copy_(state["moment"])

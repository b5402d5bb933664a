"""FGSM-PGI: FGSM from a stored perturbation, with a penalty on the change of logits along the step."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from co_probe.attacks import Rng, input_gradient, project
from co_probe.attacks.base import Model
from co_probe.data.augment import centre
from co_probe.inference.forward import Forward
from co_probe.methods.base import Batch, Method, StepResult, TrainingContext, check_not_negative, check_positive

PRIORS = ("mep", "ep", "bp")


@dataclass(eq=False, kw_only=True)
class FGSMPGI(Method):
    """FGSM-PGI: one step from a prior η, δ = Π(η + α · sign g) with g = ∇ₓL(x + η), and a penalty.

    θ minimises L(x + δ) + λ · M, where M is the mean over images and classes of (z(x + δ) − z(x + η))² with gradients
    through both logits. Π projects onto the ε-ball and x + δ onto the bounds. The prior, by `prior`, is

    - `mep`: Π(η + α · sign m) of the image's last epoch, with m ← μ·m + g/‖g‖₁, ‖g‖₁ over the whole batch;
    - `ep`: δ of the image's last epoch;
    - `bp`: δ of the image at the same index of the previous batch (a smaller last batch uses the first ones).

    η is drawn from ±α and m set to 0 at the start, every R epochs, and when images change their size. Per-image state,
    η and for `mep` also m, is cropped and flipped with the padded image, as in ATTA. For images outside the training
    set η is 0. Cost: 7 passes, since the graph of the first one serves the step and the penalty; 8 in compiled runs,
    since compiled code can be differentiated only once. Eval mode is not possible for the first pass: the second one
    would update the statistics that its gradient depends on.

    Where sources differ: the released code has `mep` only. `ep` and `bp` are simpler priors in the paper's comparison;
    its equations were not available, so they follow their names: the last perturbation of the previous epoch or batch.
    In the released code a stored η is added to any crop of the image, and x + η is not clipped. Its label smoothing
    gives 0.6 to the label and 0.4/9 to each of the nine other classes: `label_smoothing=0.444` of the run, which does
    not apply to the attack here. It trains for 110 epochs, with two resets for R = 40.

    Args:
        prior: `mep`, `ep` or `bp`.
        penalty: λ.
        relative_step: α, in units of ε.
        momentum: μ, of `mep`.
        reset: R, in epochs.

    Raises:
        ValueError: If a setting is out of range or, in `setup`, per-image state does not fit into memory.

    Reference:
        Jia et al. (ECCV 2022), "Prior-guided adversarial initialization for fast adversarial training",
        https://arxiv.org/abs/2207.08859; github.com/jiaxiaojunQAQ/FGSM-PGI, `FGSM_MEP.py`, which gives the same steps
        if nothing is cropped.
    """

    prior: str = "mep"
    penalty: float = 10.0
    relative_step: float = 1.0
    momentum: float = 0.3
    reset: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior not in PRIORS:
            raise ValueError(f"prior must be one of {', '.join(PRIORS)}, not {self.prior!r}")
        if self.batchnorm == "eval":
            raise ValueError("batchnorm must be 'both' or 'update' for it, not 'eval'")
        check_not_negative(penalty=self.penalty, momentum=self.momentum)
        check_positive(relative_step=self.relative_step, reset=self.reset)

    @override
    def start_stage(self, context: TrainingContext) -> None:
        self.padding, self.epsilon = context.padding, context.epsilon
        self.moment = self.eta = torch.empty(0)  # free the old ones before allocating
        if self.prior == "bp":
            self.eta = torch.empty(0, *context.shape, device=context.device)
            return
        self.eta = context.new_store()
        if self.prior == "mep":
            self.moment = context.new_store()
        self._reset(context.rng)

    @override
    def start_epoch(self, epoch: int, rng: torch.Generator) -> None:
        if epoch > 1 and epoch % self.reset == 1 % self.reset:
            self._reset(rng)

    def _reset(self, rng: torch.Generator) -> None:
        self.eta = _signs(self.eta, self.relative_step * self.epsilon, rng)
        self.moment.zero_()

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        eta = torch.zeros_like(x) if state is None else project(state, x, epsilon, self.bounds)
        return self._stepped(eta, input_gradient(model, x + eta, y), x, epsilon)

    def _stepped(self, eta: Tensor, direction: Tensor, x: Tensor, epsilon: float) -> Tensor:
        return project(eta + self.relative_step * epsilon * direction.sign(), x, epsilon, self.bounds)

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        x, epsilon = batch.x, batch.epsilon
        eta = project(self._prior_of(batch).to(x.dtype), x, epsilon, self.bounds)
        gradient, before = self._first_pass(model, x + eta, batch.y)
        delta = self._stepped(eta, gradient, x, epsilon)
        self._remember(batch, eta, delta, gradient)
        after = model(self.clip(x + delta))
        total = batch.cross_entropy(after) + self.penalty * F.mse_loss(after, before)
        total.backward()
        return StepResult(total.detach(), (after.detach().argmax(1) == batch.y).sum())

    def _first_pass(self, model: Model, start: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and z at x + η; z is differentiable in the weights."""
        forward = Forward.of(model)
        if forward.compiled:
            gradient = input_gradient(self.perturbing(model), start, y).clone()  # its memory is reused
            return gradient, replace(forward, batchnorm="update")(start)
        start.requires_grad_()
        logits = replace(forward, batchnorm=self.batchnorm)(start)
        loss = F.cross_entropy(logits, y, reduction="sum")
        return torch.autograd.grad(loss, start, retain_graph=True)[0], logits

    def _prior_of(self, batch: Batch) -> Tensor:
        """Return the stored η of a batch."""
        if self.prior != "bp":
            return batch.view.take(self.eta)
        size = len(batch.x)
        if missing := max(0, size - len(self.eta)):  # the first batch determines the shape
            new = torch.empty(missing, *self.eta.shape[1:], device=self.eta.device)
            new = _signs(new, self.relative_step * self.epsilon, batch.rng)
            self.eta = torch.cat([self.eta, new])
        return self.eta[:size]

    def _remember(self, batch: Batch, eta: Tensor, delta: Tensor, gradient: Tensor) -> None:
        """Store the prior for the next epoch or batch."""
        if self.prior == "bp":
            self.eta[: len(delta)] = delta.to(self.eta)
            return
        if self.prior == "mep":
            share = gradient / gradient.abs().sum().clamp(min=torch.finfo(gradient.dtype).tiny)
            moment = self.momentum * batch.view.take(self.moment).to(share) + share
            batch.view.put(self.moment, moment)
            delta = self._stepped(eta, moment, batch.x, batch.epsilon)
        batch.view.put(self.eta, delta)

    @override
    def image_state(self, index: Tensor) -> Tensor | None:
        return None if self.prior == "bp" else centre(self.eta[index], self.padding)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"eta": self.eta, "moment": self.moment} if self.prior == "mep" else {"eta": self.eta}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.eta = state["eta"].to(self.eta)
        self.moment = state.get("moment", self.moment).to(self.moment)


def _signs(like: Tensor, size: float, rng: Rng) -> Tensor:
    """Draw ±`size` with equal probability into the memory of `like`."""
    return like.uniform_(-1, 1, generator=rng).sign_().mul_(size)

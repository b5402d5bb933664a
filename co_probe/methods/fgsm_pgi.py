"""FGSM from a perturbation of the past, with a penalty on the change of logits along the step."""

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

    θ descends L(x + δ) + λ · M, where M is the mean over images and classes of (z(x + δ) − z(x + η))² and the gradient
    goes through both logits. Π projects onto the ε-ball and x + δ onto the bounds. The prior is, by `prior`,

    - `mep`: Π(η + α · sign m) of the image's last epoch, with m ← μ·m + g/‖g‖₁, ‖g‖₁ over the whole batch;
    - `ep`: δ of the image's last epoch;
    - `bp`: δ that the image at the same place of the previous batch left (a smaller last batch uses the first ones).

    It starts from ±α at random, m from 0, and both do so again every R epochs and where images come to have another
    size. What is stored per image, η and for `mep` also m, is cropped and flipped with the padded image, as in ATTA. On
    images outside of training η is 0. Cost: 7 passes: the first one's graph serves the step and the penalty. Compiled
    runs take 8, since compiled code can be differentiated only once. The passes cannot be in eval mode: the second one
    would move the statistics that the gradient of the first depends on.

    Where sources differ: the released code has `mep` only. `ep` and `bp` are the simpler priors that the paper compares
    it with; its equations were not available, and they are written from what their names say, the perturbation that
    the previous epoch or batch ended with. In the released code a stored η is added to whatever crop of the image
    comes, and x + η is not clipped. Its label smoothing keeps 0.6 of a label and gives 0.4/9 to each other class of
    ten: `label_smoothing=0.444` of the run, which here the gradient of the attack does not see. It trains for 110
    epochs, and with R = 40 starts afresh twice.

    Args:
        prior: `mep`, `ep` or `bp`.
        penalty: λ.
        relative_step: α, in units of ε.
        momentum: μ, of `mep`.
        reset: R, in epochs.

    Raises:
        ValueError: If a setting is out of range or, at its setup, what is stored does not fit into memory.

    Reference:
        Jia et al. (ECCV 2022), "Prior-guided adversarial initialization for fast adversarial training",
        https://arxiv.org/abs/2207.08859; github.com/jiaxiaojunQAQ/FGSM-PGI, `FGSM_MEP.py`, with whose steps those here
        agree where nothing is cropped.
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
        self.moment = self.eta = torch.empty(0)  # the old ones must not take memory beside the new ones
        if self.prior == "bp":
            self.eta = torch.empty(0, *context.shape, device=context.device)
            return
        self.eta = context.new_store()
        if self.prior == "mep":
            self.moment = context.new_store()
        self._start_afresh(context.rng)

    @override
    def start_epoch(self, epoch: int, rng: torch.Generator) -> None:
        if epoch > 1 and epoch % self.reset == 1 % self.reset:
            self._start_afresh(rng)

    def _start_afresh(self, rng: torch.Generator) -> None:
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
        """Return g and z at x + η; z as a function of the weights."""
        forward = Forward.of(model)
        if forward.compiled:
            gradient = input_gradient(self.perturbing(model), start, y).clone()  # its memory is used again
            return gradient, replace(forward, batchnorm="update")(start)
        start.requires_grad_()
        logits = replace(forward, batchnorm=self.batchnorm)(start)
        loss = F.cross_entropy(logits, y, reduction="sum")
        return torch.autograd.grad(loss, start, retain_graph=True)[0], logits

    def _prior_of(self, batch: Batch) -> Tensor:
        """η of a batch, as it is stored."""
        if self.prior != "bp":
            return batch.view.take(self.eta)
        size = len(batch.x)
        if missing := max(0, size - len(self.eta)):  # the first batch shows how large they are
            new = torch.empty(missing, *self.eta.shape[1:], device=self.eta.device)
            new = _signs(new, self.relative_step * self.epsilon, batch.rng)
            self.eta = torch.cat([self.eta, new])
        return self.eta[:size]

    def _remember(self, batch: Batch, eta: Tensor, delta: Tensor, gradient: Tensor) -> None:
        """Store the prior that follows from this step."""
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
    """±`size` with equal odds, of the shape of `like`, in whose memory it is drawn."""
    return like.uniform_(-1, 1, generator=rng).sign_().mul_(size)

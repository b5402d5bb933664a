"""FastAdv+: F+FGSM with blocks of PGD training after drops of accuracy under PGD."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from co_probe import attacks
from co_probe.attacks import Rng
from co_probe.attacks.base import Model, is_correct
from co_probe.inference.forward import Forward
from co_probe.methods.base import Batch, Method, StepResult, TrainingContext, check_positive
from co_probe.methods.fgsm_rs import FGSMRS
from co_probe.numerics.rng import make_rng

REFERENCES = ("best", "last")


@dataclass(eq=False, kw_only=True)
class FastAdvPlus(Method):
    """FastAdv+: F+FGSM with a block of s updates on PGD when accuracy under PGD has dropped by c.

    After every s updates, accuracy under PGD is measured on a fixed set of images, in eval mode and from the same
    random start each time. If it is `drop` below its best value so far (or the last one), the next s updates train on
    PGD. The images are validation images if the run has some (`probe.validation`), else training images without
    augmentation; outside a run, those of the first batch. Cost: 5 passes, 2·steps + 3 in a block; a check takes
    (2·steps + 1) passes of `images` images and synchronises the device.

    Not verified: the paper's text on the reference of a drop and on the strength of its PGD was not available.
    Published re-implementations agree on s = 20 and c = 0.1. As the reference of a drop they use the best value so far
    on a fixed validation batch (the repository adversarial-robustness-co-monitor, as here) or the last check. Their PGD
    has 10 or 5 steps.

    Args:
        every: s, in optimizer steps.
        drop: c, as a share of images.
        reference: Reference of a drop: `best` accuracy so far, or that of the `last` check.
        images: Number of images for checks, at most.
        steps: Number of PGD steps, for checks and in blocks.
        relative_step: Step of F+FGSM in units of ε; PGD takes ε/4.

    Raises:
        ValueError: If a setting is out of range.

    Reference:
        Li, Wang, Jana and Carin (2020), "Towards understanding fast adversarial training",
        https://arxiv.org/abs/2006.03089.
    """

    decides_within_epochs = True
    every: int = 20
    drop: float = 0.1
    reference: str = "best"
    images: int = 128
    steps: int = 10
    relative_step: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(every=self.every, drop=self.drop, images=self.images, steps=self.steps)
        if self.reference not in REFERENCES:
            raise ValueError(f"reference must be one of {', '.join(REFERENCES)}, not {self.reference!r}")
        self._fast = FGSMRS(bounds=self.bounds, relative_step=self.relative_step)
        self.count = 0  # updates so far
        self.strong = 0  # remaining updates on PGD
        self.accuracy = 0.0  # reference of the next check
        self._model: nn.Module | None = None
        self._watched: tuple[Tensor, Tensor] | None = None

    @override
    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        self._model, self.epsilon = model, context.epsilon
        if context.watched is not None:
            self._watched = context.watched(self.images)

    @override
    def perturb(
        self, model: Model, x: Tensor, y: Tensor, *, epsilon: float, rng: Rng = None, state: Tensor | None = None
    ) -> Tensor:
        if self.strong:
            return self._pgd(epsilon).generate(model, x, y, rng)
        return self._fast.perturb(model, x, y, epsilon=epsilon, rng=rng)

    def _pgd(self, epsilon: float) -> attacks.PGD:
        return attacks.PGD(epsilon=epsilon, steps=self.steps, bounds=self.bounds)

    @override
    def step(self, model: Model, batch: Batch) -> StepResult:
        self._watched = self._watched or (batch.x, batch.y)
        return super().step(model, batch)

    @override
    def update(self) -> None:
        self.count += 1
        self.strong = max(0, self.strong - 1)
        if self.count % self.every == 0 and self._model is not None and self._watched is not None:
            self._check(self._model, *self._watched)

    def _check(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        rng = make_rng(x.device, 0, "fast-adv-plus")
        with Forward(model).in_eval().as_module() as module:
            # Not `module`, whose hooks record the passes of the step for indicators.
            delta = self._pgd(self.epsilon).generate(module.forward, x, y, rng)
            accuracy = is_correct(module.forward, x + delta, y).double().mean().item()
        if self.accuracy - accuracy >= self.drop:
            self.strong = self.every
        self.accuracy = max(self.accuracy, accuracy) if self.reference == "best" else accuracy

    @override
    def parameters(self) -> dict[str, dict[str, float]]:
        return {"fast-adv-plus": {"strong": float(self.strong)}}

    @override
    def load_parameters(self, parameters: dict[str, dict[str, float]]) -> None:
        self.strong = int(parameters["fast-adv-plus"]["strong"])

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"count": float(self.count), "strong": float(self.strong), "accuracy": self.accuracy}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.strong = int(state["count"]), int(state["strong"])
        self.accuracy = float(state["accuracy"])

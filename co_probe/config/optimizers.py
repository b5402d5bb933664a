"""Settings of optimizers, which `co_probe.training.optimizers` builds."""

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from typing_extensions import override

from co_probe.config.registry import Registry
from co_probe.errors import UserError

OPTIMIZERS = Registry(
    "optimizer",
    {"sgd": "co_probe.config.optimizers:SGD", "adamw": "co_probe.config.optimizers:AdamW"},
)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Settings of the optimizer of the weights, registered in `OPTIMIZERS`.

    Args:
        name: Registered name.
        learning_rate: The peak of the learning-rate schedule.
        weight_decay: Coefficient of the weight decay.

    Attributes:
        torch_class: Class of PyTorch, `package.module:Name`.
        shares: Settings that must be less than 1.
        most: Greatest values of settings, beyond which numbers overflow.
    """

    name: str
    learning_rate: float
    weight_decay: float
    torch_class: ClassVar[str]
    shares: ClassVar[tuple[str, ...]] = ()
    most: ClassVar[dict[str, float]] = {"learning_rate": 1e6, "weight_decay": 1e6}

    @property
    def state(self) -> tuple[str, ...]:
        """Names of PyTorch's state tensors per parameter, which resuming restores."""
        return ()

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `torch_class`, without the learning rate, which is set before each step."""
        return {name: value for name, value in asdict(self).items() if name not in ("name", "learning_rate")}

    def check(self) -> None:
        """Raise UserError if a setting is out of range."""
        for key, value in asdict(self).items():
            if isinstance(value, str | bool):
                continue
            name = f"optimizer.{key}"
            if not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, not {value:g}")
            if value < 0:
                raise UserError(f"{name} must not be negative, but it is {value:g}")
            if value > self.most.get(key, math.inf):
                raise UserError(f"{name} must be at most {self.most[key]:,g}, not {value:g}")
            if key in self.shares and value >= 1:
                raise UserError(f"{name} must be less than 1, not {value:g}")


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient.

    Args:
        momentum: Share of the last update in the next one, 0 for none.
        nesterov: Use Nesterov momentum, which must be greater than 0.

    Reference:
        `torch.optim.SGD`.
    """

    name: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    torch_class: ClassVar[str] = "torch.optim:SGD"
    shares: ClassVar[tuple[str, ...]] = ("momentum",)

    @property
    @override
    def state(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    @override
    def check(self) -> None:
        super().check()
        if self.nesterov and not self.momentum:
            raise UserError("optimizer.nesterov needs a momentum greater than 0")


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    Args:
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of squared gradients.
        eps: Added to the denominator.

    Reference:
        Loshchilov & Hutter (2019), "Decoupled weight decay regularization"; `torch.optim.AdamW`, whose defaults are
        used.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2
    torch_class: ClassVar[str] = "torch.optim:AdamW"
    shares: ClassVar[tuple[str, ...]] = ("beta1", "beta2")

    @property
    @override
    def state(self) -> tuple[str, ...]:
        return "step", "exp_avg", "exp_avg_sq"

    @override
    def arguments(self) -> dict[str, Any]:
        return {"betas": (self.beta1, self.beta2), "eps": self.eps, "weight_decay": self.weight_decay}

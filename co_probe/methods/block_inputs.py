"""Perturbation of inner layers for APART: the input of the first convolution of each residual branch.

Forward pre-hooks read and replace the tensors, so that the branch is perturbed and the shortcut is not, without changes
to the model's code.

Compiled code includes only the hooks that exist at compilation, and returns gradients of its inputs only. Therefore the
hooks that add a perturbation remain on the layers (`BlockInputs`), and the gradient at the input of a layer is computed
as that of a zero tensor added to it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from co_probe.attacks.base import Model
from co_probe.inference.forward import Forward

# Names of the first layer of a block's branch: ResNets and kin and PreActBlock; torchvision's EfficientNet, ConvNeXt
# and MobileNetV3; its MobileNetV2; its RegNet; its MNASNet; timm's EfficientNet and MobileNets; its ConvNeXt.
BRANCHES = ("conv1", "block", "conv", "f", "layers", "conv_pw", "conv_exp", "conv_dw")


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Find the first convolution of each residual branch, by its name in the model, in order.

    A residual block is a module with a child of one of the names in BRANCHES that is or contains a convolution, and
    with a shortcut: its output depends on its input even if the input of that convolution is fixed, which is tested in
    eval mode. This holds for the networks of this package and the residual ones of torchvision and timm.
    """
    blocks: dict[str, nn.Module] = {}
    with Forward(model, batchnorm="eval").as_module():
        for name, module in model.named_modules():
            branch = next((key for key in BRANCHES if isinstance(getattr(module, key, None), nn.Module)), None)
            if not name or branch is None:
                continue
            convolutions = (
                (f"{name}.{branch}.{inner}".rstrip("."), layer)
                for inner, layer in getattr(module, branch).named_modules()
                if isinstance(layer, nn.Conv2d)
            )
            first, convolution = next(convolutions, ("", None))
            if convolution is not None and first not in blocks and _has_shortcut(module, convolution):
                blocks[first] = convolution
    return blocks


def _has_shortcut(block: nn.Module, first: nn.Conv2d) -> bool:
    """Return whether the block's output depends on its input other than through its first convolution."""
    x = torch.zeros(1, first.in_channels, 8, 8, device=first.weight.device, dtype=first.weight.dtype)
    x.requires_grad_()
    with torch.enable_grad(), replaced_inputs({"": first}, lambda _, activation: torch.zeros_like(activation)):
        try:
            output = block(x * 1)  # not a leaf, since a block may change it in place
        except (TypeError, ValueError, RuntimeError):  # not called with one tensor: not a supported block
            return False
        if not isinstance(output, Tensor) or not output.requires_grad:
            return False
        return torch.autograd.grad(output.sum(), x, allow_unused=True)[0] is not None


class BlockInputs:
    """Layers of a model, by name, whose inputs are perturbed and observed; at most one object per model."""

    def __init__(self, modules: Mapping[str, nn.Module]):
        self.modules = dict(modules)
        self.steps: Mapping[str, Tensor] = {}
        self.zeros: dict[torch.Size, dict[str, Tensor]] = {}  # by the shape of a batch
        for name, module in self.modules.items():
            module.register_forward_pre_hook(partial(self._add, name))

    def _add(self, name: str, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (args[0] + self.steps[name], *args[1:]) if name in self.steps else None

    @contextmanager
    def adding(self, steps: Mapping[str, Tensor]) -> Iterator[None]:
        """Add `steps[name]` to the input of every layer `name` in `steps` inside the context."""
        self.steps = steps
        try:
            yield
        finally:
            self.steps = {}

    def watch(self, model: Model, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits of `model` at `x`, and for every layer a tensor whose gradient is that at its input.

        It is the gradient through the branch alone, even if the shortcut uses the same input.
        """
        if not self.modules:
            return model(x), {}
        forward = Forward.of(model)
        if not forward.compiled:
            return self._observe(forward, x)
        if x.shape not in self.zeros:
            self.zeros[x.shape] = self._zeros(forward, x)
        zeros = self.zeros[x.shape]
        with self.adding(zeros):
            return forward(x), zeros

    def _observe(self, forward: Forward, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        seen: dict[str, Tensor] = {}

        def observe(name: str, activation: Tensor) -> Tensor:
            seen[name] = activation.view_as(activation)
            return seen[name]

        with replaced_inputs(self.modules, observe):
            return forward(x), seen

    @torch.no_grad()
    def _zeros(self, forward: Forward, x: Tensor) -> dict[str, Tensor]:
        """Make zeros like the input of each layer, as leaves that require gradients."""
        _, seen = self._observe(replace(forward, compiled=False, batchnorm="eval"), x)
        return {name: torch.zeros_like(activation).requires_grad_() for name, activation in seen.items()}


@contextmanager
def replaced_inputs(blocks: Mapping[str, nn.Module], replace: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Replace the input of every layer `name` by `replace(name, input)` inside the context."""
    with ExitStack() as stack:
        for name, module in blocks.items():
            hook = module.register_forward_pre_hook(lambda _, args, name=name: (replace(name, args[0]), *args[1:]))
            stack.callback(hook.remove)
        yield

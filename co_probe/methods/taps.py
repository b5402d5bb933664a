"""Where APART perturbs a residual network from inside: the input of the first convolution of each block's branch.

Nothing is asked of the model's code: the tensors are read and replaced by forward pre-hooks, so that the branch
sees the perturbation and the shortcut does not.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from co_probe.attacks.outcome import evaluating

# What blocks call the beginning of their branch: ResNets and kin and PreActBlock; torchvision's EfficientNet, ConvNeXt
# and MobileNetV3; its MobileNetV2; its RegNet; its MNASNet; timm's EfficientNet and MobileNets; its ConvNeXt.
BRANCHES = ("conv1", "block", "conv", "f", "layers", "conv_pw", "conv_exp", "conv_dw")


def find_taps(model: nn.Module) -> dict[str, nn.Module]:
    """The first convolution of each residual block's branch, by its name in the model, in order; empty if none.

    A residual block is a module with a child of one of the names in BRANCHES that is or holds a convolution, and with a
    shortcut: its output depends on its input even when that convolution sees nothing of it (which each candidate is
    tried on, in eval mode). So it is in this package's networks and in torchvision's and timm's residual ones.
    """
    taps: dict[str, nn.Module] = {}
    with evaluating(model):
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
            if convolution is not None and first not in taps and _has_shortcut(module, convolution):
                taps[first] = convolution
    return taps


def _has_shortcut(block: nn.Module, first: nn.Conv2d) -> bool:
    """Whether the block's output depends on its input other than through its first convolution."""
    x = torch.zeros(1, first.in_channels, 8, 8, device=first.weight.device, dtype=first.weight.dtype)
    x.requires_grad_()
    with torch.enable_grad(), tapped({"": first}, lambda _, activation: torch.zeros_like(activation)):
        try:
            output = block(x * 1)  # no leaf, so that a block may change it in place
        except (TypeError, ValueError, RuntimeError):  # it is not called with one tensor, so it is not a block we know
            return False
        if not isinstance(output, Tensor) or not output.requires_grad:
            return False
        return torch.autograd.grad(output.sum(), x, allow_unused=True)[0] is not None


@contextmanager
def tapped(taps: Mapping[str, nn.Module], replace: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """While inside, every tap `name` sees `replace(name, input)` instead of its input."""
    with ExitStack() as stack:
        for name, module in taps.items():
            hook = module.register_forward_pre_hook(lambda _, args, name=name: (replace(name, args[0]), *args[1:]))
            stack.callback(hook.remove)
        yield

"""Where APART perturbs a residual network from inside: the input of each block's first convolution.

Nothing is asked of the model's code: the tensors are read and replaced by forward pre-hooks, so that the branch
sees the perturbation and the shortcut does not.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn


def find_taps(model: nn.Module) -> dict[str, nn.Module]:
    """The first convolution of each residual block, by its name in the model, in order; empty if there is none.

    A residual block is a module with children `conv1` and `conv2`, the first one a convolution: so it is in this
    package's networks and in torchvision's and timm's ResNets (basic and bottleneck) and their kin.
    """
    taps: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        first, second = getattr(module, "conv1", None), getattr(module, "conv2", None)
        if name and isinstance(first, nn.Conv2d) and isinstance(second, nn.Module):
            taps[f"{name}.conv1"] = first
    return taps


@contextmanager
def tapped(taps: Mapping[str, nn.Module], replace: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """While inside, every tap `name` sees `replace(name, input)` instead of its input."""
    with ExitStack() as stack:
        for name, module in taps.items():
            hook = module.register_forward_pre_hook(lambda _, args, name=name: (replace(name, args[0]), *args[1:]))
            stack.callback(hook.remove)
        yield

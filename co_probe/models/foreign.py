"""Adapter for classifiers of other programs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from co_probe.errors import UserError
from co_probe.models.normalize import Normalize


class ForeignModel(nn.Module):
    """A network of another program, preceded by a normalisation if it takes normalised images.

    Takes (B, C, H, W) images within the bounds of the run and returns (B, classes) logits. Its state dict is that of
    the network, with unchanged names; normalisation constants are not part of it.

    Args:
        network: The network, which computes in float32 whatever it was saved in. It returns logits, a sequence that
            begins with them, a mapping with an entry `logits`, or an object with an attribute `logits`.
        mean: Mean that images are normalised by before the network, one value per channel; None if the network takes
            images as they are.
        std: Standard deviation, with `mean`.

    Raises:
        UserError: When called, if the network returns something else.
    """

    def __init__(
        self, network: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.network = network.float()
        self.normalize = nn.Identity() if mean is None or std is None else Normalize(mean, std)

    @override
    def forward(self, x: Tensor) -> Tensor:
        # Many networks flatten features with `view`, which rejects the channels-last layout. A copy is needed, since
        # images of one channel count as contiguous in both layouts and convolutions would return the other one.
        x = x.clone(memory_format=torch.contiguous_format)
        return logits_of(self.network(self.normalize(x)))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's state dict."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the network's state dict."""
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the network's parameters under the names of its state dict."""
        return self.network.named_parameters(*args, **kwargs)


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a classifier returned.

    Args:
        output: Logits, a sequence that begins with them, a mapping with an entry `logits`, or an object with an
            attribute `logits`.

    Raises:
        UserError: `output` is none of these.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and isinstance(logits := output.get("logits"), Tensor):
        return logits
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return logits
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    seen = f"a mapping with {', '.join(map(str, output))}" if isinstance(output, Mapping) else type(output).__name__
    raise UserError(
        f"the model returned {seen}: it must return logits, (logits, ...), {{'logits': ...}} or an object with .logits"
    )

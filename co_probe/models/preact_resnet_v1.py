"""The pre-activation network of co-probe 0.1, which differs from the literature's; for runs trained with it."""

from collections.abc import Sequence

from co_probe.models.wide_resnet import WideBlockNet


def preact_resnet_v1(
    channels: int,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: int = 64,
    blocks: Sequence[int] = (2, 2, 2, 2),
    stem: int | None = None,
) -> WideBlockNet:
    """Build the `preact_resnet` of co-probe 0.1: shortcuts of relu(bn1(x)), He-normal initialisation.

    Runs and `.pt` files of that version call it `preact_resnet` or `preact_resnet18`; readers translate the name
    (`co_probe.store.upgrade`).
    """
    if not blocks:
        raise ValueError("blocks must not be empty")
    widths = [width * 2**stage for stage in range(len(blocks))]
    return WideBlockNet(channels, classes, mean, std, width if stem is None else stem, widths, blocks)

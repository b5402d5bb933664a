"""BatchNorm with batch statistics over all processes, on CPU and GPU.

torch's `SyncBatchNorm` runs on GPUs only and has no second derivative.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SynchronisedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batches of all processes in train mode, and ordinary BatchNorm in eval mode.

    Gradients pass through the statistics to images of other processes, so all processes must run the same passes. They
    equal those of the whole batch if all parts have the same size.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, ...); the number of processes comes from torch.distributed."""
        if not self.training:
            return super().forward(x)
        over = [dimension for dimension in range(x.dim()) if dimension != 1]
        count = torch.full((1,), float(x.numel() // x.shape[1]), dtype=x.dtype, device=x.device)
        sums = all_reduce(torch.cat([x.sum(over), count]))
        count, mean = sums[-1], sums[:-1] / sums[-1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(over)) / count
        if self.track_running_stats and self.running_mean is not None:
            self._track(mean.detach(), (variance * count / (count - 1)).detach())
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is None:
            return normalised
        return normalised * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics; `variance` is unbiased, as in BatchNorm."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any dimensions, those of BatchNorm1d, 2d and 3d."""


def synchronise_batchnorm(model: nn.Module) -> nn.Module:
    """Replace every BatchNorm layer by `SynchronisedBatchNorm`, with the same parameters and names.

    Returns:
        The module, or its replacement if it is itself a layer. With a single process nothing is replaced.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    for name, child in model.named_children():
        setattr(model, name, synchronise_batchnorm(child))
    if type(model) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return model
    assert isinstance(model, nn.modules.batchnorm._BatchNorm)
    layer = SynchronisedBatchNorm(
        model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats
    ).train(model.training)
    for key in ("weight", "bias"):
        setattr(layer, key, getattr(model, key))
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(layer, key, getattr(model, key))
    return layer

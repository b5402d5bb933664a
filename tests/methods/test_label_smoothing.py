"""Label smoothing is a setting of the run: the loss of every method has it, and the perturbation has not."""

from dataclasses import replace

import pytest
import torch
from formulas import images, make, make_batch, seeded, small_model
from torch.nn import functional as F

from co_probe.methods import METHODS

SHARE = 0.3


def trained_step(name: str, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, gradients of all weights) of a step on the same images with the same draws."""
    model = small_model()
    x, y = images(12)
    method = make(name, model, count=12)
    batch = replace(make_batch(x, y, seeded(3)), label_smoothing=share)
    loss = method.step(model, batch).loss
    return loss, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("apart", "shrink")])
def test_every_method_smooths_labels(name):
    """APART, which needs residual blocks, shares the loss of APART-Simple; `shrink` is for data of its own."""
    (loss, gradient), (plain, sharp) = trained_step(name, SHARE), trained_step(name, 0.0)
    assert torch.isfinite(loss) and loss != plain
    assert not torch.allclose(gradient, sharp, rtol=1e-3)


def test_the_loss_is_the_mean_over_all_classes():
    """(1 − s) · CE(y) + s · mean over classes of CE, at the perturbation of the label itself."""
    model = small_model()
    x, y = images(12)
    method = make("fgsm", model, count=12)
    seen = x + method.perturb(model, x, y, epsilon=0.1)
    logs = model(seen).log_softmax(1)
    wanted = -(1 - SHARE) * logs[torch.arange(12), y].mean() - SHARE * logs.mean()
    assert trained_step("fgsm", SHARE)[0].item() == pytest.approx(wanted.item(), rel=1e-12)
    assert F.cross_entropy(model(seen), y).item() == pytest.approx(trained_step("fgsm", 0.0)[0].item(), rel=1e-12)

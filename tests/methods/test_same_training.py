"""A few steps of methods, in numbers that were recorded once: how passes are organised must not change what is learned.

In float64, so that another machine's rounding never changes the sign of a gradient; what methods draw and store is in
float32.
"""

import pytest
import torch

from co_probe.data.augment import pad_images, random_view
from co_probe.inference.forward import Forward
from co_probe.methods import METHODS
from co_probe.methods.base import Batch, TrainingContext
from co_probe.models.preact_resnet import PreActResNet
from co_probe.training.loop import train_step

COUNT, SIZE, EPSILON = 12, (1, 8, 8), 0.1
# Method, its settings: norm of all weights, sum of the running variances, sum of the method's own tensors.
RECORDED = [
    ("fgsm", {}, (5.754714983677188, 14.421743388998298, 0)),
    ("fgsm", {"batchnorm": "update"}, (5.754714983677188, 18.474096397845152, 0)),
    ("apart", {}, (5.76480779096297, 14.399451789960874, -38.451321335528974)),
    ("apart", {"batchnorm": "eval"}, (5.768094551915939, 18.462252153119778, -34.42347681710589)),
    ("atta", {}, (5.769382718545855, 18.472464617210075, 7.949571045888206)),
    ("atta", {"batchnorm": "both", "steps": 2}, (5.765470493918519, 11.432939160946662, 4.074084330250116)),
    ("grad-align", {}, (5.759219339908401, 11.535855499913987, 0)),
    ("grad-align", {"batchnorm": "update", "base": "fgsm-rs"}, (5.761840473857822, 18.457855811279856, 0)),
    ("s-fgsm", {"batchnorm": "eval"}, (5.765664453953871, 18.43530134204647, 0)),
    ("trades", {"steps": 2}, (5.766933381348357, 14.391362296016476, 0)),
    ("free", {}, (5.761058825520365, 18.455577810333082, -3.600000029802322)),
]


def after_training(name: str, settings: dict, wrap: bool) -> tuple[float, float, float]:
    torch.manual_seed(0)
    model = PreActResNet(1, 3, (0.3,), (0.5,), width=8, blocks=(1,)).double().train()
    rng = torch.Generator().manual_seed(0)
    method = METHODS.make(name, **settings)
    method.setup(model, TrainingContext(COUNT, SIZE, 1, 4, EPSILON, torch.device("cpu"), rng))
    if name == "apart":
        with torch.no_grad():
            method.alpha.fill_(0.4)  # far from the start, so that every term counts
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images = pad_images(torch.rand((COUNT, *SIZE), generator=rng, dtype=torch.float64), 1)
    labels = torch.randint(3, (COUNT,), generator=rng)
    method.start_epoch(1, rng)
    for size in (6, 6, 4):
        view = random_view(torch.randperm(COUNT, generator=rng)[:size], SIZE[1:], 1, True, rng)
        batch = Batch(view.take(images), labels[view.index], view, EPSILON, 0.5, rng)
        train_step(Forward(model) if wrap else model, method, optimizer, batch, 0.1)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    running = sum(value.sum().item() for key, value in model.state_dict().items() if key.endswith("running_var"))
    own = sum(value.double().sum().item() for value in method.state_dict().values())
    return weights.norm().item(), running, own


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize(("name", "settings", "recorded"), RECORDED)
def test_training_gives_the_recorded_numbers(name, settings, recorded, wrap):
    assert after_training(name, settings, wrap) == pytest.approx(recorded, rel=1e-6)

"""A vision transformer of timm and a MobileNet of torchvision, trained adversarially for an epoch and measured."""

import pytest
import torch
from conftest import tiny_config

import co_probe
from co_probe.training.loop import epochs

SMALL = {"epochs": 1, "batch_size": 64, "data": {"size": 16, "limit": 192}, "probe": {"test": 20, "train": 20}}
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
MODELS = {
    "vit": (
        {"name": "timm:vit_tiny_patch16_224", **VIT},
        {"optimizer": {"name": "adamw"}, "schedule": {"name": "cosine", "warmup": 0.2}, "ema": 0.9},
    ),
    "mobilenet": ({"name": "torchvision:mobilenet_v3_small", "width_mult": 0.25}, {"label_smoothing": 0.1}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_an_epoch_of_adversarial_training(kind, tmp_path):
    model, settings = MODELS[kind]
    if model["name"].startswith("timm:"):
        pytest.importorskip("timm")
    config = tiny_config("n-fgsm", model=model, **SMALL, **settings)
    (metrics,) = epochs(config, tmp_path / "run", device="cpu")
    assert 0 < metrics.train_loss < 10 and (metrics.ema is not None) == (kind == "vit")

    run = co_probe.open_run(tmp_path / "run")
    x, y = run.test_data()
    network = run.load_model(1)
    assert network(x).shape == (20, 10)
    assert run.metrics(1)["clean"] == pytest.approx((network(x).argmax(1) == y).float().mean().item())
    assert torch.isfinite(torch.from_numpy(run.step_series(1)["pert_alignment"])).all()
    assert len(co_probe.gap(run, against="pgd2")) > 0

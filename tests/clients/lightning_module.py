"""A LightningModule that perturbs its own batches, and the callback."""

import logging
import warnings

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from clients.problem import EPOCHS, MEAN, STD, WARMUP, Setting, batches, data, network, rate

from co_probe.lightning import CatastrophicOverfitting
from co_probe.monitoring.monitor import Monitor


class Classifier(pl.LightningModule):
    def __init__(self, epsilon: float, per_epoch: int, peak: float = 0.3):
        super().__init__()
        self.save_hyperparameters()
        self.net = network()

    def forward(self, x):
        return self.net((x - MEAN) / STD)

    def training_step(self, batch, batch_idx):
        x, y = batch
        epsilon = self.hparams.epsilon * min(1.0, (self.global_step + 1) / (WARMUP * self.hparams.per_epoch))
        x_adv = x.clone().requires_grad_()
        grad = torch.autograd.grad(F.cross_entropy(self(x_adv), y), x_adv)[0]
        x_adv = (x + epsilon * grad.sign()).clamp(0, 1)
        loss = F.cross_entropy(self(x_adv), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4)
        total = EPOCHS * self.hparams.per_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate((step + 1) / total, self.hparams.peak)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Loader:
    """Other batches each epoch."""

    def __init__(self, x, y):
        self.x, self.y, self.epoch = x, y, 0

    def __iter__(self):
        self.epoch += 1
        return iter(batches(self.x, self.y, self.epoch - 1))

    def __len__(self):
        return len(batches(self.x, self.y, 0))


def main(setting: Setting, **settings) -> tuple[Monitor, pl.Trainer]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    train, held_out = data()
    loader = Loader(*train)
    callback = CatastrophicOverfitting(epsilon=setting.epsilon, probe=held_out, **settings)
    trainer = pl.Trainer(
        max_epochs=setting.epochs,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about workers
        trainer.fit(Classifier(setting.epsilon, len(loader), setting.peak), loader)
    assert callback.monitor is not None
    return callback.monitor, trainer

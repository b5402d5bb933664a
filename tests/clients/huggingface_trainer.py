"""A Trainer of Hugging Face that perturbs its own batches, and the callback."""

import tempfile

import torch
import torch.nn.functional as F
from clients.problem import BATCH, EPOCHS, MEAN, STD, WARMUP, Setting, data, network, rate
from torch import nn
from transformers import Trainer, TrainingArguments

from co_probe.monitoring.huggingface import CatastrophicOverfitting
from co_probe.monitoring.monitor import Monitor


class Classifier(nn.Module):
    """Takes images by name and returns a dictionary, as models of the library do."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, pixel_values):
        return {"logits": self.net((pixel_values - MEAN) / STD)}


class FGSMTrainer(Trainer):
    def __init__(self, *args, epsilon: float, warmup: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.epsilon, self.warmup = epsilon, warmup

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        x, y = inputs["pixel_values"], inputs["labels"]
        epsilon = self.epsilon * min(1.0, (self.state.global_step + 1) / self.warmup)
        x_adv = x.clone().requires_grad_()
        grad = torch.autograd.grad(F.cross_entropy(model(pixel_values=x_adv)["logits"], y), x_adv)[0]
        x_adv = (x + epsilon * grad.sign()).clamp(0, 1)
        loss = F.cross_entropy(model(pixel_values=x_adv)["logits"], y)
        self.accelerator.backward(loss)
        return loss.detach()


def collate(items):
    """A batch of images, each moved by up to a pixel."""
    x, y = torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])
    down, right = torch.randint(3, (2,)).tolist()
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    return {"pixel_values": padded[:, :, down : down + x.shape[2], right : right + x.shape[3]], "labels": y}


def main(setting: Setting, **settings) -> tuple[Monitor, Trainer]:
    (x, y), held_out = data()
    model = Classifier()
    per_epoch = -(-len(x) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(min((step + 1) / (EPOCHS * per_epoch), 1.0), setting.peak)
    )
    callback = CatastrophicOverfitting(epsilon=setting.epsilon, probe=held_out, **settings)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=setting.epochs,
            per_device_train_batch_size=BATCH,
            max_grad_norm=0.0,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = FGSMTrainer(
            model,
            arguments,
            data_collator=collate,
            train_dataset=list(zip(x, y, strict=True)),
            optimizers=(optimizer, schedule),
            callbacks=[callback],
            epsilon=setting.epsilon,
            warmup=WARMUP * per_epoch,
        )
        trainer.train()
    assert callback.monitor is not None
    return callback.monitor, trainer

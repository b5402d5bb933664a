"""The training loop, from its first line to its last."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from co_probe.build import make_data, make_method, make_model, pick_device
from co_probe.config import Config
from co_probe.data.augment import pad_images, random_view
from co_probe.data.dataset import to_unit
from co_probe.errors import Diverged
from co_probe.methods.base import Batch, Method, Task
from co_probe.rng import derive_seed, make_rng
from co_probe.schedules import SCHEDULES, warmup
from co_probe.store import RunWriter
from co_probe.training.metrics import measure
from co_probe.training.state import arrays, draw_indices, environment, momenta, restore

Progress = Callable[[int, int, int], None]  # (epoch, images done of it, images in it)


def epochs(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Iterator[dict[str, float]]:
    """Train `config` into the folder `out`; yields the metrics of each epoch once they are safely on disk.

    Metrics: `epoch`, `learning_rate` (the last one), `train_loss` (nats) and `train_accuracy` (both on the perturbed
    images as they were trained on), those of `co_probe.training.metrics.measure`, and `seconds` of training.
    `resume` goes on with a run that is there, `overwrite` starts it afresh. `device`: auto, cpu, cuda, cuda:1.
    Raises UserError for settings or files that cannot be used, Diverged if the loss is no longer finite.
    """
    target = pick_device(device)
    data = make_data(config)
    count, seed, padding = len(data.train_y), config.seed, config.augmentation.padding
    steps = math.ceil(count / config.batch_size)
    probe_set = {
        "test": draw_indices(len(data.test_y), config.probe.test, seed, "probe test"),
        "train": draw_indices(count, config.probe.train, seed, "probe train"),
    }
    writer = RunWriter(Path(out), config, probe_set, environment(target), resume=resume, overwrite=overwrite)
    with torch.random.fork_rng(), writer:
        torch.manual_seed(derive_seed(seed, "initial weights"))
        model = make_model(config, data).to(target).train()
        optimizer = torch.optim.SGD(
            model.parameters(), momentum=config.optimizer.momentum, weight_decay=config.optimizer.weight_decay
        )
        schedule = SCHEDULES.make(config.schedule.name, **config.schedule.settings)
        method = make_method(config)
        method_rng = make_rng(target, seed, "method")
        method.setup(model, Task(count, data.shape, padding, steps * config.epochs, target, method_rng))
        if 0 < writer.last < config.epochs:
            restore(writer, model, optimizer, method)

        images, labels = pad_images(data.train_x, padding).to(target), data.train_y.to(target)
        probe_test, probe_train = (torch.from_numpy(writer.probe_set[split]) for split in ("test", "train"))
        test_x, test_y = to_unit(data.test_x[probe_test]).to(target), data.test_y[probe_test].to(target)

        rising = round(config.epsilon_warmup * steps)  # steps until ε is what it is to be
        for epoch in range(writer.last + 1, config.epochs + 1):
            started = time.perf_counter()
            rng = make_rng(target, seed, "epoch", epoch)
            torch.manual_seed(derive_seed(seed, "global", epoch))  # for models that draw, by dropout say
            loss = torch.zeros((), device=target)
            correct = torch.zeros((), device=target, dtype=torch.long)
            order = torch.randperm(count, generator=rng, device=target)
            for step, index in enumerate(order.split(config.batch_size)):
                view = random_view(index, data.shape[1:], padding, config.augmentation.flip, rng)
                rate = schedule(((epoch - 1) * steps + step) / (steps * config.epochs))
                method.epsilon = config.epsilon * warmup((epoch - 1) * steps + step + 1, rising)
                batch = Batch(to_unit(view.take(images)), labels[index], view, rate, rng)
                loss_here, correct_here = train_step(model, method, optimizer, batch, config.optimizer.learning_rate)
                loss += loss_here * len(index)
                correct += correct_here
                if progress:
                    progress(epoch, step * config.batch_size + len(index), count)

            metrics = {
                "learning_rate": config.optimizer.learning_rate * rate,
                "train_loss": loss.item() / count,
                "train_accuracy": correct.item() / count,
                "seconds": time.perf_counter() - started,
            }
            if not math.isfinite(metrics["train_loss"]):
                raise Diverged(
                    f"{out}: the training loss became {metrics['train_loss']} in epoch {epoch}; "
                    f"stopped, with epochs up to {epoch - 1} kept"
                )
            method.epsilon = config.epsilon
            metrics |= measure(model, method, test_x, test_y, seed)
            state = method.image_state(probe_train.to(target))
            checkpoint = {
                "model": arrays(model.state_dict()),
                "metrics": metrics,
                "method": method.parameters(),
                "images": arrays({} if state is None else {"state": state}),
            }
            going_on = {"momentum": arrays(momenta(model, optimizer)), "method": arrays(method.state_dict())}
            writer.commit(epoch, checkpoint, going_on if epoch < config.epochs else None)
            yield {"epoch": epoch, **metrics}


def train_step(
    model: nn.Module, method: Method, optimizer: torch.optim.Optimizer, batch: Batch, learning_rate: float
) -> tuple[Tensor, Tensor]:
    """One step of the method and the optimizer. Returns the batch's mean loss and its number of right answers."""
    optimizer.zero_grad()
    result = method.step(model, batch)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * batch.rate
    optimizer.step()
    return result.loss, result.correct

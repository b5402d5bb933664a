"""The training loop, from its first line to its last."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from co_probe.config import Config
from co_probe.data.augment import random_view
from co_probe.data.dataset import to_unit
from co_probe.errors import Diverged, UserError
from co_probe.inference.execution import compiling, execute, resolve
from co_probe.methods.base import Batch, Method
from co_probe.numerics.rng import derive_seed, make_rng
from co_probe.runs.build import kept_epochs, make_data, make_method, make_model, pick_device
from co_probe.store import RunWriter
from co_probe.training.background import Commits
from co_probe.training.memory import keep_freed_memory
from co_probe.training.metrics import measure
from co_probe.training.resolution import Plan
from co_probe.training.schedules import SCHEDULES, warmup
from co_probe.training.state import draw_indices, environment, momenta, restore, snapshot

Progress = Callable[[int, int, int], None]  # (epoch, images done of it, images in it)


def epochs(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    compile: bool = False,
    progress: Progress | None = None,
) -> Iterator[dict[str, float]]:
    """Train `config` into the folder `out`; yields the metrics of each epoch once they are safely on disk.

    An epoch is written while the next one trains, and its metrics come as soon as it is on the disk, between two
    batches; an error of writing is raised then.

    An epoch is one pass over the data, in which a method that replays its batches takes every one of them several
    times; there are then so many fewer epochs (`kept_epochs`), and the run ends on the same budget. Progress, for the
    schedule and for ε, counts in epochs, also where these differ in steps (`Plan`).
    Metrics: `epoch`, `learning_rate` (the last one), `train_loss` (nats) and `train_accuracy` (both on the perturbed
    images as they were trained on), those of `co_probe.training.metrics.measure`, and `seconds` of training.
    `resume` goes on with a run that is there, in the precision it was begun in; `overwrite` starts it afresh.
    `device`: auto, cpu, cuda, cuda:1. `compile`: run the network through torch.compile.
    Raises UserError for settings or files that cannot be used, Diverged if the loss is no longer finite.
    """
    target = pick_device(device)
    if target.type == "cpu":
        keep_freed_memory()
    data = make_data(config)
    count, seed = len(data.train_y), config.seed
    method, last_epoch = make_method(config), kept_epochs(config)
    plan = Plan(config, data, last_epoch, method.replays, target)
    probe_set = {
        "test": draw_indices(len(data.test_y), config.probe.test, seed, "probe test"),
        "train": draw_indices(count, config.probe.train, seed, "probe train"),
    }
    writer = RunWriter(
        Path(out),
        config,
        probe_set,
        environment(target, resolve(config.precision, target)),
        planned=last_epoch,
        resume=resume,
        overwrite=overwrite,
    )
    with torch.random.fork_rng(), ExitStack() as stack:
        torch.manual_seed(derive_seed(seed, "initial weights"))
        model = make_model(config, data).to(target).train()
        optimizer = torch.optim.SGD(
            model.parameters(), momentum=config.optimizer.momentum, weight_decay=config.optimizer.weight_decay
        )
        schedule = SCHEDULES.make(config.schedule.name, **config.schedule.settings)
        try:
            method.setup(model, plan.task(1, make_rng(target, seed, "method")))
        except ValueError as error:
            raise UserError(f"method {config.method.name}: {error}") from error
        stack.enter_context(writer)  # not before: settings that cannot be used must not cost the run that is there
        commits = stack.enter_context(Commits(writer, target))
        execute(model, writer.precision, compiled=compile)
        if 0 < writer.last < last_epoch:
            if plan.phase(writer.last) is not plan.phase(1):  # room for what is about to be read
                method.start_phase(plan.task(writer.last, make_rng(target, seed, "method")))
            restore(writer, model, optimizer, method)

        labels = data.train_y.to(target)
        probe_test, probe_train = (torch.from_numpy(writer.probe_set[split]) for split in ("test", "train"))
        test_x, test_y = to_unit(data.test_x[probe_test]).to(target), data.test_y[probe_test].to(target)

        for epoch in range(writer.last + 1, last_epoch + 1):
            started = time.perf_counter()
            phase = plan.phase(epoch)
            steps = phase.steps  # optimizer steps in this epoch
            rising = round(config.epsilon_warmup * steps)  # steps until ε is what it is to be
            if epoch > 1 and phase is not plan.phase(epoch - 1):
                method.start_phase(plan.task(epoch, make_rng(target, seed, "method", epoch)))
            rng = make_rng(target, seed, "epoch", epoch)
            torch.manual_seed(derive_seed(seed, "global", epoch))  # for models that draw, by dropout say
            loss = torch.zeros((), device=target)
            correct = torch.zeros((), device=target, dtype=torch.long)
            order = torch.randperm(count, generator=rng, device=target)
            method.start_epoch(epoch, rng)
            for number, index in enumerate(order.split(phase.batch_size)):
                view = random_view(index, phase.shape[1:], phase.padding, config.augmentation.flip, rng)
                x, y = to_unit(view.take(phase.images)), labels[index]
                for replay in range(method.replays):
                    step = (epoch - 1) * steps + number * method.replays + replay
                    rate = schedule(step / (steps * last_epoch))
                    method.epsilon = config.epsilon * warmup(step + 1, rising)
                    batch = Batch(x, y, view, rate, rng)
                    with compiling(model):
                        loss_here, right = train_step(model, method, optimizer, batch, config.optimizer.learning_rate)
                    loss += loss_here * len(index)
                    correct += right
                if progress:
                    progress(epoch, number * phase.batch_size + len(index), count)
                yield from commits.done()  # the epoch before this one

            metrics = {
                "epoch": epoch,
                "learning_rate": config.optimizer.learning_rate * rate,
                "train_loss": loss.item() / (count * method.replays),
                "train_accuracy": correct.item() / (count * method.replays),
                "seconds": time.perf_counter() - started - commits.paused,
            }
            method.epsilon = config.epsilon
            if math.isfinite(metrics["train_loss"]):
                metrics |= measure(model, method, test_x, test_y, seed)
            yield from commits.done(wait=True)
            # The gap is of the model as the epoch's last step left it; the training loss does not know of that step.
            if not math.isfinite(metrics["train_loss"] + metrics.get("gap", 0.0)):
                raise Diverged(
                    f"{out}: the loss is no longer a finite number in epoch {epoch} (training loss "
                    f"{metrics['train_loss']:g}); stopped; epochs kept: {epoch - 1}"
                )
            # Not of images of another size than those that diagnostics see: it would belong to other pixels.
            state = method.image_state(probe_train.to(target)) if phase.shape == data.shape else None
            checkpoint = {
                "model": snapshot(model.state_dict(), commits.stream),
                "metrics": {name: value for name, value in metrics.items() if name != "epoch"},
                "method": method.parameters(),
                "images": snapshot({} if state is None else {"state": state}, commits.stream),
            }
            going_on = (
                {} if epoch == last_epoch else {"momentum": momenta(model, optimizer), "method": method.state_dict()}
            )
            commits.begin(metrics, checkpoint, {k: snapshot(v, commits.stream) for k, v in going_on.items()} or None)
        yield from commits.done(wait=True)


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

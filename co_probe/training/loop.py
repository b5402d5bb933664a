"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from co_probe.attacks.base import Model
from co_probe.config import Config
from co_probe.data.dataset import Dataset, to_unit
from co_probe.errors import Diverged, UserError
from co_probe.indicators.steps import StepSeries
from co_probe.inference.execution import execute, resolve
from co_probe.inference.forward import Forward
from co_probe.methods.base import Batch, Method
from co_probe.numerics.rng import derive_seed, make_rng
from co_probe.runs.build import check_parts, describe, epoch_count, make_data, make_method, make_model, pick_device
from co_probe.training.averaging import WeightAverage
from co_probe.training.batchnorm import synchronise_batchnorm
from co_probe.training.early_stop import EarlyStop
from co_probe.training.following import Follower
from co_probe.training.group import ALONE, Group, join
from co_probe.training.memory import keep_freed_memory
from co_probe.training.metrics import EpochMetrics, Robustness, measure
from co_probe.training.optimizers import make_optimizer, optimizer_state
from co_probe.training.recorder import Checkpoint, Recorder
from co_probe.training.resolution import ResolutionStages
from co_probe.training.resuming import restore
from co_probe.training.schedules import SCHEDULES, warmup
from co_probe.training.starting import load_start
from co_probe.training.state import draw_probe

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
) -> Iterator[EpochMetrics]:
    """Train `config` into the folder `out`, yielding after each epoch.

    An epoch is one pass over the data. A method with replays takes several steps per batch and has correspondingly
    fewer epochs (`epoch_count`), so that the budget is the same. Schedules and ε depend on progress in epochs, even if
    epochs differ in steps (`ResolutionStages`).

    Args:
        config: Settings of the run.
        out: Folder of the run.
        resume: Continue an existing run, in its original precision.
        overwrite: Delete an existing run and start again.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        compile: Use torch.compile.
        progress: Called after each batch with the epoch, its number of finished images, and the number of all images.

    Several processes started by torchrun train the run together; all call this with the same arguments, and the first
    one writes the run (`co_probe.training.group`).

    Yields:
        The metrics of each epoch after training and measuring, while its file is being written. Errors of writing are
        raised at the next epoch, or at the end.

    Raises:
        UserError: Settings or files cannot be used.
        Diverged: The loss is not finite.
        Stopped: The guard or early stopping has ended the run.
    """
    group = join(pick_device(device))
    target = group.device
    if target.type == "cpu":
        keep_freed_memory()
    check_parts(config)
    data = make_data(config)
    seed = config.seed
    method, last_epoch = make_method(config, data.bounds), epoch_count(config)
    index = draw_probe(config, data)
    stages = ResolutionStages(config, data, last_epoch, method.replays, target, index.get("validation"), group)
    if group.size > 1 and method.decides_within_epochs and not config.sync_batchnorm:
        raise UserError(
            f"method {config.method.name} decides by its accuracy within epochs, where BatchNorm's running statistics "
            "differ between processes: set sync_batchnorm=true"
        )
    info = describe(config, data, resolve(config.precision, target))
    if stage := stages.constant:
        info = replace(info, batch_size=config.batch_size, steps_per_epoch=stage.steps)

    def record() -> Recorder:
        return Recorder(
            out,
            info=info,
            test=(data.test_x[index["test"]], data.test_y[index["test"]]),
            train=(data.train_x[index["train"]], data.train_y[index["train"]]),
            validation=_images(data, index.get("validation")),
            index=index,
            device=target,
            resume=resume,
            overwrite=overwrite,
            processes=group.size,
        )

    with torch.random.fork_rng(), ExitStack() as stack:
        torch.manual_seed(derive_seed(seed, "initial weights"))
        model = make_model(config, data)
        if config.init_from and not (resume and any(Path(out).glob("epoch-*.h5"))):
            load_start(model, config, data)
        model = (synchronise_batchnorm(model) if config.sync_batchnorm else model).to(target).train()
        group.start_equal(model)
        average = WeightAverage(model, config.ema) if config.ema else None
        early_stop = EarlyStop(config, data.bounds) if config.early_stop else None
        optimizer = make_optimizer(config.optimizer, model.parameters())
        schedule = SCHEDULES.make(config.schedule.name, **config.schedule.settings)
        try:
            stages.setup(method, model)
        except ValueError as error:
            raise UserError(f"method {config.method.name}: {error}") from error
        with group.first_leads():  # only now, since invalid settings must not delete an existing run
            recorder = Follower(out, group) if group.rank else stack.enter_context(record())
        execute(model, recorder.info.precision, compiled=compile)
        forward = Forward(model, compiled=compile)
        if average:
            execute(average.model, recorder.info.precision)
        if 0 < recorder.last < last_epoch:
            stages.go_on(method, recorder.last)
            restore(recorder, group, model, average, optimizer, config.optimizer, method, early_stop)
        probe_train = torch.from_numpy(recorder.index["train"]).to(target)
        test = torch.from_numpy(recorder.index["test"])
        test_x, test_y = to_unit(data.test_x[test]).to(target), data.test_y[test].to(target)
        validation = _images(data, recorder.index.get("validation"))
        if validation is not None:
            validation = to_unit(validation[0]).to(target), validation[1].to(target)

        def robustness_on(x: Tensor, y: Tensor, model: Model = forward) -> Robustness:
            return measure(
                model,
                x,
                y,
                epsilon=config.epsilon,
                norm=config.norm,
                bounds=data.bounds,
                train_attack=method.generator_at(config.epsilon),
                seed=seed,
            )

        indicators = StepSeries(model if config.step_indicators else None)

        for epoch in range(recorder.last + 1, last_epoch + 1):
            started = time.perf_counter()
            stages.enter(method, epoch)
            steps = stages.stage(epoch).steps
            rising = round(config.epsilon_warmup * steps)  # number of warm-up steps of ε
            rng = make_rng(target, seed, "epoch", epoch, *group.salt)
            torch.manual_seed(
                derive_seed(seed, "global", epoch, *group.salt)
            )  # for models with random layers, such as dropout
            total = torch.zeros((), device=target)
            correct = torch.zeros((), device=target, dtype=torch.long)
            step, done = (epoch - 1) * steps, 0
            batches = stages.batches(epoch, rng)
            method.start_epoch(epoch, rng)

            for (x, y, view), size in zip(batches, stages.sizes(epoch), strict=True):
                if early_stop:
                    early_stop.watch(x, y)
                for _ in range(method.replays):
                    share = schedule(step / (steps * last_epoch))
                    step += 1
                    batch = Batch(x, y, view, config.epsilon * warmup(step, rising), share, rng, config.label_smoothing)
                    with indicators.step(y):
                        rate = config.optimizer.learning_rate
                        loss, right = train_step(forward, method, optimizer, batch, rate, group)
                    if average:
                        average.update()
                    recorder.step(loss=loss, train_accuracy=right / size)
                    total += loss * size
                    correct += right
                done += size
                if progress:
                    progress(epoch, done, stages.count)

            train_loss, train_accuracy = (
                number.item() / (stages.count * method.replays) for number in (total, correct)
            )
            seconds = time.perf_counter() - started
            if not math.isfinite(train_loss):
                raise _diverged(out, epoch, f"training loss {train_loss:g}")
            if early_stop:
                early_stop.look(forward, epoch, group)
            group.average_statistics(*([model, average.model] if average else [model]))
            group.require_equal(epoch, model.state_dict(), method.parameters())
            robustness = robustness_on(test_x, test_y)  # every process measures, since others would only wait
            # The gap is that of the model after the last step of the epoch; the training loss does not include it.
            if not math.isfinite(robustness.gap):
                raise _diverged(out, epoch, f"training loss {train_loss:g}, gap {robustness.gap:g}")
            metrics = EpochMetrics(
                epoch=epoch,
                learning_rate=config.optimizer.learning_rate * share,
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                seconds=seconds,
                guard_step=method.parameters().get("guard", {}).get("step"),
                **asdict(robustness),
                validation=None if validation is None else robustness_on(*validation),
                ema=robustness_on(test_x, test_y, average.model) if average else None,
                ema_validation=robustness_on(*validation, average.model) if average and validation else None,
            )
            going_on = {**optimizer_state(model, optimizer), "method": method.state_dict()}
            if average:
                going_on["ema"] = {"steps": average.steps}
            if early_stop:
                going_on["early_stop"] = early_stop.state_dict()
            series = indicators.take()
            if series and group.size > 1:
                group.average([*series.values()])
            checkpoint = Checkpoint(
                epoch=epoch,
                model=model.state_dict(),
                ema=average.model.state_dict() if average else None,
                metrics=metrics.to_dict(),
                method=method.parameters(),
                # Not for images of another size than those of diagnostics, whose pixels differ.
                images=stages.image_state(method, probe_train) if stages.stage(epoch).shape == data.shape else None,
                steps=series,
                resume=going_on if epoch < last_epoch else None,
            )
            with group.first_follows():  # an epoch is complete when every process has stored its part
                recorder.epoch(checkpoint)
            yield metrics

    group.wait()  # until the first process has written everything


def _diverged(out: str | Path, epoch: int, seen: str) -> Diverged:
    return Diverged(
        f"{out}: the loss is no longer a finite number in epoch {epoch} ({seen}); stopped; epochs kept: {epoch - 1}"
    )


def _images(data: Dataset, index: np.ndarray | None) -> tuple[Tensor, Tensor] | None:
    """Return the training images of these numbers and their classes; None if there are none."""
    return None if index is None else (data.train_x[index], data.train_y[index])


def train_step(
    model: Model,
    method: Method,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    learning_rate: float,
    group: Group = ALONE,
) -> tuple[Tensor, Tensor]:
    """Take one step of method and optimizer; return mean loss and number of correct images of the batch.

    If several processes train together, `batch` is the part of this one, and results are those of all parts.
    """
    optimizer.zero_grad()
    result = method.step(model, batch)
    loss, correct = result.loss, result.correct
    if group.size > 1:
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        loss, share = loss.clone(), correct / len(batch.x)
        size = group.average([*gradients, *method.to_average(), loss, share], weight=len(batch.x))
        correct = (share * size).round().long()
    for settings in optimizer.param_groups:
        settings["lr"] = learning_rate * batch.lr_scale
    optimizer.step()
    method.update()
    return loss, correct

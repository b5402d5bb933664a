"""A run with its models, data and perturbation generator."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from co_probe.config.exports import EXPORTS
from co_probe.config.plugins import is_own
from co_probe.data.dataset import Dataset, to_unit
from co_probe.errors import DamagedFile, UserError, one_line
from co_probe.inference.execution import execute
from co_probe.methods.base import Method
from co_probe.runs.build import build_model, describe, make_data, make_method
from co_probe.runs.fitting import load_weights
from co_probe.runs.foreign import ModelLike
from co_probe.runs.training_attack import training_attack
from co_probe.store import RunInfo, StoredRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AHEAD = 2  # number of epochs to read ahead from the disk
Weights = dict[str, np.ndarray]


class Run(StoredRun):
    """A finished or running training run, the main object in notebooks.

    Args:
        path: Folder or packed file of the run.
        model: The network or its constructor (a class, a function, a name), for a model of another program.
        results: Folder for tables of probes, with a file per run; that of the run if None.
        weights: `trained`, or `ema` for the moving average of the weights (`StoredRun`).

    Raises:
        UserError: The run does not exist, or has no averaged weights.

    Example:
        >>> run = co_probe.open_run("runs/fgsm")
        >>> model = run.load_model(run.epochs[-1])
        >>> x, y = run.test_data()
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: ModelLike | None = None,
        results: str | Path | None = None,
        weights: str = "trained",
    ):
        super().__init__(path, results=results, weights=weights)
        self.model = model

    @cached_property
    def data(self) -> Dataset:
        """The whole data set of the run, loaded again, for measurements beyond the probe set."""
        return make_data(self.config)

    @cached_property
    def info(self) -> RunInfo:
        """Facts about the run; those that files of schema 1 and 2 lack come from the data set."""
        if self.schema >= 3:
            return self._facts
        loaded = describe(self.config, self.data, self.precision)
        return replace(loaded, run_id="", planned=self.planned)

    def load_model(
        self, epoch: int, device: str | torch.device = "cpu", *, model: ModelLike | None = None
    ) -> nn.Module:
        """Load the network after `epoch`, in eval mode, with the same logits as during training.

        Args:
            epoch: Number of the epoch.
            device: Device of the network.
            model: The network or its constructor, instead of the one that the run names or was opened with. A module is
                copied.

        Returns:
            A module that takes images (B, C, H, W) within the bounds of the run and returns logits (B, classes),
            float32 or float64, computed in the precision of training.

        Raises:
            UserError: The epoch does not exist, or the network cannot be built.
            DamagedFile: The weights do not verify.
        """
        weights = self.weights(epoch)
        network = self._new_model(device, epoch, weights, given=model)
        self._fill(network, epoch, weights)
        return network

    def models(
        self, epochs: Sequence[int] | None = None, device: str | torch.device = "cpu", *, compile: bool = False
    ) -> Iterator[tuple[int, nn.Module]]:
        """Yield each of `epochs` (all, if None) with its network, as in `load_model`.

        Yields the same module each time, with the next epoch's weights loaded in place; do not keep references. Weights
        are read ahead from the disk in a thread. With `compile` the network is prepared for
        `co_probe.inference.forward.Forward(model, compiled=True)`, with one compilation for all epochs. Raises
        UserError and DamagedFile like `load_model`, when the epoch is reached.

        Example:
            >>> for epoch, model in run.models():
            ...     print(epoch, model.conv1.weight.norm())
        """
        coming, reading = deque(self.epochs if epochs is None else epochs), deque[tuple[int, Future[Weights]]]()
        model: nn.Module | None = None
        reader = ThreadPoolExecutor(1, "reading epochs")
        try:
            while coming or reading:
                while coming and len(reading) <= AHEAD:
                    epoch = coming.popleft()
                    reading.append((epoch, reader.submit(self.weights, epoch)))
                epoch, read = reading.popleft()
                weights = read.result()
                model = self._new_model(device, epoch, weights, compile) if model is None else model
                self._fill(model, epoch, weights)
                yield epoch, model
        finally:
            reader.shutdown(cancel_futures=True)

    def _fill(self, model: nn.Module, epoch: int, weights: Weights) -> None:
        try:
            load_weights(model, _tensors(weights), self._source(epoch))
        except DamagedFile as error:
            if not self.info.model.foreign:
                raise
            # The file is intact: the code has changed, or the object was made with other arguments.
            raise UserError(f"{error}; pass the imported model, model=...") from error

    def _new_model(
        self,
        device: str | torch.device,
        epoch: int,
        weights: Weights,
        compile: bool = False,
        given: ModelLike | None = None,
    ) -> nn.Module:
        """Build the network in eval mode, without the weights of `epoch`."""
        given = self.model if given is None else given
        model = build_model(self.info, given, weights=_tensors(weights), source=self._source(epoch)).to(device)
        execute(model, self.precision, compiled=compile)
        return model.eval()

    def _source(self, epoch: int) -> str:
        return f"{self.path}, epoch {epoch}"

    def generator(self, epoch: int) -> Method:
        """Return the method with its learned state at `epoch`; its `perturb(model, x, y, epsilon=...)` is f_A."""
        method = make_method(self.config, self.info.bounds)
        try:
            method.load_parameters(self.method_parameters(epoch))
        except (LookupError, TypeError, ValueError) as error:
            reason = f"the stored state of the method does not fit it: {error!r}"
            raise DamagedFile(f"{self._source(epoch)}: {one_line(reason)}") from error
        return method

    def training_attack(self, epoch: int, epsilon: float | None = None) -> Callable[..., Tensor]:
        """Return f_A, the training attack at the weights after `epoch`.

        Args:
            epoch: Number of the epoch.
            epsilon: Norm bound, in pixel units; that of the run if None.

        Returns:
            A function (model, x, y, rng=None) -> δ.

        Raises:
            UserError: The run was imported without a training attack, or with one that has no name.
        """
        bound = self.epsilon if epsilon is None else epsilon
        if self.info.settings is not None:
            return self.generator(epoch).generator_at(bound)
        name = self.info.attack
        if name is None:
            raise UserError(
                f"{self.name} was recorded without its training attack: name one as generator, such as fgsm"
            )
        try:
            return training_attack(name, epsilon=bound, norm=self.norm, bounds=self.info.bounds).perturb
        except UserError as error:
            raise UserError(
                f"{self.name} was trained with {name}, which no registered method or attack is called: name one as "
                "generator, such as fgsm"
            ) from error

    @property
    def verdict(self) -> Any:
        """Verdict on the finished epochs (`co_probe.Verdict`), from stored metrics."""
        return EXPORTS.load("verdict_of")(self)

    def plot(self, figure: str = "gap", **choice: Any) -> "Figure":
        """Draw a figure of this run, after measuring what is missing.

        Args:
            figure: Name of the figure, as in `co_probe.draw`.
            choice: Further arguments of `co_probe.draw`.

        Example:
            >>> run.plot("gap", against="pgd20").savefig("gap.png")
        """
        return EXPORTS.load("draw")(figure, self, **choice)

    def _repr_html_(self) -> str:
        """Represent the run in notebooks by facts, verdict, and metrics of the last epochs."""
        facts = (
            f"{self.info.method} on {self.info.data}, ε = {self.epsilon:.4g} ({self.norm}), {len(self.epochs)} epochs"
        )
        lines = [f"<b>{escape(self.name)}</b>: {escape(facts)}", escape(self.verdict.summary())] if self.epochs else []
        rows = self.frame("metrics")
        if not len(rows):
            return "<br>".join(lines) or f"<b>{escape(self.name)}</b>: no finished epoch yet"
        wide = rows.pivot_table(index="epoch", columns="quantity", values="value", sort=False).tail(5)
        return "<br>".join(lines) + wide.to_html(float_format="{:.3f}".format)

    def test_data(self) -> tuple[Tensor, Tensor]:
        """Return the probe set's test images, (n, C, H, W) within the bounds of the run, and their classes, (n,)."""
        return self.probe_data("test")

    def train_data(self) -> tuple[Tensor, Tensor]:
        """Return the probe set's train images without augmentation, (n, C, H, W), and their classes, (n,).

        Raises:
            UserError: The run has no train images.
        """
        return self.probe_data("train")

    def validation_data(self) -> tuple[Tensor, Tensor]:
        """Return the held-out training images, (n, C, H, W), and their classes, (n,).

        Raises:
            UserError: The run has none.
        """
        return self.probe_data("validation")

    def probe_data(self, split: str) -> tuple[Tensor, Tensor]:
        """Return the images of a split (`test`, `train`, `validation`) and their classes.

        Raises:
            UserError: The run has none.
        """
        if (stored := self.probe_images(split)) is not None:
            images, labels = map(torch.from_numpy, stored)
        elif self.schema >= 3 or split not in self.probe_set:
            raise UserError(f"{self.name} has no {split} images: it was recorded without them")
        else:
            index = torch.from_numpy(self.probe_set[split])
            every, classes = getattr(self.data, f"{split}_x"), getattr(self.data, f"{split}_y")
            if int(index.max()) >= len(classes):
                raise DamagedFile(f"{self.path}: {self.info.data} has {len(classes)} {split} images, not {index.max()}")
            images, labels = every[index], classes[index]
        return to_unit(images), labels

    def method_state(self, epoch: int) -> dict[str, object]:
        """Return learned state of the method, {group: {name: value}}, with `images` (n, C, H, W) for `train_data`.

        `images` are APART's ω, in [-1, 1], or ATTA's δ, in pixel units, rounded by `co_probe.store.rounding`; None for
        methods without state per image.
        """
        state = self.image_state(epoch)
        return {**self.method_parameters(epoch), "images": None if state is None else torch.from_numpy(state)}


def open_run(
    path: str | Path,
    *,
    model: ModelLike | None = None,
    results: str | Path | None = None,
    weights: str = "trained",
) -> Run:
    """Open a run.

    Args:
        path: Folder or packed file of the run.
        model: The network or its constructor, for a model of another program.
        results: Folder for tables of probes, for a read-only run.
        weights: `trained`, or `ema` for the moving average of weights, of a run with the setting `ema`.

    Raises:
        UserError: The run does not exist, or has no averaged weights.

    Example:
        >>> run = co_probe.open_run("runs/mine", model=SmallNet)
    """
    return Run(path, model=model, results=results, weights=weights)


def open_with(path: str | Path, model: ModelLike | None, **options: Any) -> Run:
    """Open a run, with `model` only if its network is from another program.

    Args:
        path: Folder or packed file of the run.
        model: Network that was given for several runs, some of which may have another one.
        **options: As in `open_run`.
    """
    run = Run(path, **options)
    spec = run._facts.model
    if spec.foreign or is_own(spec.name):
        run.model = model
    return run


def _tensors(weights: Weights) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in weights.items()}

"""A run as live objects: its models, its data, its perturbation generator."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from co_probe.build import make_data, make_method, new_model
from co_probe.data.dataset import Dataset, to_unit
from co_probe.errors import DamagedFile
from co_probe.methods.base import Method
from co_probe.models.execution import execute
from co_probe.store import StoredRun


class Run(StoredRun):
    """A finished or running training run; notebooks live on this object.

    `path`: a run's folder or a packed file. Raises UserError if there is none.

    >>> run = co_probe.open_run("runs/fgsm")
    >>> model = run.load_model(run.epochs[-1])
    >>> x, y = run.test_data()
    """

    @cached_property
    def data(self) -> Dataset:
        """The data set it was trained on, loaded anew."""
        return make_data(self.config)

    def load_model(self, epoch: int, device: str | torch.device = "cpu") -> nn.Module:
        """The network after `epoch`, in eval mode; it takes (B, C, H, W) images in [0, 1] and returns float32 logits.

        It computes in the precision that it was trained in, wherever it is measured.
        Raises UserError if the run has no such epoch, DamagedFile if its weights do not verify.
        """
        weights = {name: torch.from_numpy(value) for name, value in self.weights(epoch).items()}
        channels, classes = self.data.shape[0], len(self.data.classes)
        model = new_model(
            self.config.model.name,
            self.config.model.settings,
            channels,
            classes,
            [0.0] * channels,
            [1.0] * channels,
            self.data.bounds,
            low_pass=self.config.low_pass,
            signal=self.data.signal,
        )
        load_weights(model, weights, f"{self.path}, epoch {epoch}")
        execute(model, self.precision)
        return model.to(device).eval()

    def generator(self, epoch: int) -> Method:
        """The method with what it had learned by `epoch`; its `perturb(model, x, y)` is f_A."""
        method = make_method(self.config)
        method.load_parameters(self.method_parameters(epoch))
        return method

    def test_data(self) -> tuple[Tensor, Tensor]:
        """The probe set's test images, (n, C, H, W) in [0, 1], and their classes, (n,)."""
        index = torch.from_numpy(self.probe_set["test"])
        return to_unit(self.data.test_x[index]), self.data.test_y[index]

    def train_data(self) -> tuple[Tensor, Tensor]:
        """The probe set's train images, un-augmented, (n, C, H, W) in [0, 1], and their classes, (n,)."""
        index = torch.from_numpy(self.probe_set["train"])
        return to_unit(self.data.train_x[index]), self.data.train_y[index]

    def method_state(self, epoch: int) -> dict[str, object]:
        """What the method had learned: {group: {name: value}}, and `images` (n, C, H, W) for `train_data`, or None.

        Those of `images` are rounded, as `co_probe.store.rounding` says.
        """
        state = self.image_state(epoch)
        return {**self.method_parameters(epoch), "images": None if state is None else torch.from_numpy(state)}


def open_run(path: str | Path) -> Run:
    """Open a run's folder or packed file. Raises UserError if it is neither."""
    return Run(path)


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Fill `model` with `weights`. Raises DamagedFile, naming `source`, if names or shapes are others than its own."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DamagedFile(f"{source}: the weights do not fit the model they are said to be of: {reason}") from error

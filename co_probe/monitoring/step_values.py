"""Values of optimizer steps: collected per step as tensors, fetched once per window."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from co_probe.indicators.abnormal import abnormal_examples, loss_gain
from co_probe.indicators.linearity import linearity_ratio
from co_probe.indicators.participation import entropy_gap, participation_ratio
from co_probe.indicators.passes import Pair, Pass, pairs
from co_probe.indicators.pert_alignment import pert_alignment, sign_agreement
from co_probe.indicators.steps import NAMES, StepSeries, labels_of
from co_probe.indicators.zero_gradients import ImageGradients, masked_share

ALL = ("loss", "train_accuracy", *NAMES)


class StepValues:
    """Collects the values of `ALL` for each optimizer step; NaN where undefined."""

    def __init__(self) -> None:
        self._series = StepSeries(None)
        self._rows: list[dict[str, Tensor]] = []  # values per step that are not in the series
        self.seen = False  # whether any step so far had an attack and an update

    def __len__(self) -> int:
        return len(self._rows)

    @torch.no_grad()
    def add(self, passes: list[Pass], labels: Tensor | None) -> None:
        """Add a step by its passes.

        Args:
            passes: Passes that a `PassObserver` stored since the last step.
            labels: Classes of the images of the update, (B,), in the order of the passes; None to infer them from
                gradients.
        """
        pair = _joined(pairs(passes))
        last = [part for part in passes if part.logit_gradient is not None][-1:]
        update = pair[1] if pair else (last[0] if last else None)
        read = labels_of(update) if update else None
        if update is None or read is None:
            self._rows.append({})
            self._series.add(None, None)
            return
        y = labels if labels is not None and len(labels) == len(update.logits) else read
        row = {
            "loss": F.cross_entropy(update.logits.float(), y),
            "train_accuracy": (update.logits.argmax(1) == y).float().mean(),
        }
        if pair and y is read and (first := labels_of(pair[0])) is not None:
            # Passes on different images are not attack and update, for example with unrecognised accumulation.
            row["valid"] = (first == read).float().mean() > 0.5
        self.seen = self.seen or pair is not None
        self._rows.append(row)
        self._series.add(pair, y)

    @torch.no_grad()
    def add_given(
        self,
        gradients: tuple[Tensor | None, Tensor | None],
        losses: tuple[Tensor, Tensor] | None,
        logits: tuple[Tensor, Tensor] | None,
        labels: Tensor | None,
    ) -> None:
        """Add a step by the arguments of `Monitor.step`."""
        attack, update = (None if gradient is None else ImageGradients.of(gradient) for gradient in gradients)
        row: dict[str, Tensor] = {}
        if attack is not None:
            row |= {"participation": participation_ratio(attack), "entropy_gap": entropy_gap(attack)}
        if attack is not None and update is not None:
            row["pert_alignment"] = pert_alignment(attack, update)
            row["sign_agreement"] = sign_agreement(attack, update)
            row["linearity"] = linearity_ratio(attack, update)
            row["zero_gradients"] = masked_share(attack, update)
        if logits is not None and labels is not None:
            row["train_accuracy"] = (logits[1].argmax(1) == labels).float().mean()
            if losses is None:
                start, end = (F.cross_entropy(z.detach().float(), labels, reduction="none") for z in logits)
                losses = (start, end)
        if losses is not None:
            row |= {"loss": losses[1].detach().float().mean(), "loss_gain": loss_gain(losses)}
            if losses[0].ndim == 1:  # per image, not batch means
                found = abnormal_examples(losses, logits)
                row |= {"abnormal": found.share, "abnormal_change": found.logit_change}
        self.seen = self.seen or "pert_alignment" in row
        self._rows.append(row)
        self._series.add(None, None)

    @torch.no_grad()
    def take(self, device: torch.device) -> dict[str, np.ndarray]:
        """Fetch and clear the values of all steps since the last call, {name: (steps,) float32}.

        This synchronises the device once. In a process group the values are means over the processes, which must all
        call this at the same step.

        Args:
            device: Device of the model.
        """
        rows, self._rows = self._rows, []
        if not rows:
            return {}
        series = self._series.take()
        nan, true = torch.tensor(torch.nan, device=device), torch.tensor(True, device=device)
        valid = torch.stack([row.get("valid", true).to(device) for row in rows])
        columns = []
        for name in ALL:
            given = torch.stack([row.get(name, nan).to(device, torch.float32) for row in rows])
            if name in series:
                computed = torch.where(valid, series[name].to(device), nan)
                given = torch.where(given.isnan(), computed, given)
            columns.append(given)
        table = torch.stack(columns)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(table)
            table /= dist.get_world_size()
        return dict(zip(ALL, table.cpu().numpy(), strict=True))


def _joined(found: list[Pair]) -> Pair | None:
    """Join the passes of accumulated batches to one batch; None if there are none."""
    if len(found) < 2:
        return found[0] if found else None
    return _concatenated([pair[0] for pair in found]), _concatenated([pair[1] for pair in found])


def _concatenated(parts: list[Pass]) -> Pass:
    def cat(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return Pass(cat("logits"), parts[0].asked, True, cat("gradient"), cat("logit_gradient"))


def means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Average over steps, ignoring NaN; names without any value are skipped."""
    kept = {name: series[np.isfinite(series)] for name, series in values.items()}
    return {name: float(series.mean()) for name, series in kept.items() if len(series)}

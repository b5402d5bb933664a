"""Checks for masked gradients of a run: measurement, and description of stored results."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from co_probe.config.masking import NAMES, Finding, evidence
from co_probe.errors import UserError
from co_probe.probes.masking import Masking
from co_probe.probes.named import probe
from co_probe.probes.runner import Progress
from co_probe.store import StoredRun


class MaskingRun(Protocol):
    """A run that may have stored rows of the probe `masking`."""

    @property
    def epsilon(self) -> float:
        """Norm bound of the run, in pixel units."""

    def frame(self, probe: str) -> pd.DataFrame:
        """Return the stored table of a probe."""


@dataclass(frozen=True)
class MaskingCheck:
    """The checks for masked gradients at one epoch.

    Attributes:
        epoch: Number of the epoch.
        n: Number of images.
        findings: Results of the checks.
    """

    epoch: int
    n: int
    findings: tuple[Finding, ...]

    @property
    def evidence(self) -> tuple[str, ...]:
        """Suspicious findings in words."""
        return evidence(self.findings)

    def __str__(self) -> str:
        numbers = ", ".join(f"{NAMES[each.quantity]} {100 * each.value:.1f}%" for each in self.findings)
        found = f"masked gradients: {'; '.join(self.evidence)}" if self.evidence else "no sign of masked gradients"
        return f"epoch {self.epoch} ({self.n} images): {numbers}; {found}"

    def to_dict(self) -> dict[str, Any]:
        """Convert the checks to plain data for JSON."""
        values = {each.quantity: each.value for each in self.findings}
        suspicious = [each.quantity for each in self.findings if each.suspicious]
        return {
            "epoch": self.epoch,
            "images": self.n,
            **values,
            "suspicious": suspicious,
            "evidence": list(self.evidence),
        }


def measure_masking(run: StoredRun, *, device: str = "auto", progress: Progress | None = None) -> str | None:
    """Measure the probe `masking` at the best and the last epoch, where it is not stored.

    Args:
        run: The run.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        progress: Called after each epoch.

    Returns:
        Reason why it cannot be measured (missing code of a foreign model, read-only run), or None.
    """
    try:
        probe(Masking(), run, device=device, progress=progress)
    except UserError as error:
        return str(error)
    return None


def masking_checks(run: MaskingRun) -> list[MaskingCheck]:
    """Return stored checks of a run at its ε, by epoch; empty if there are none."""
    return list(_checks(run))


def _checks(run: MaskingRun) -> Iterator[MaskingCheck]:
    frame = run.frame("masking")
    if not len(frame):
        return
    frame = frame[frame["epsilon"] == run.epsilon]
    for epoch, rows in frame.groupby("epoch"):
        rows = rows.drop_duplicates("quantity", keep="last")
        findings = (
            Finding(row["quantity"], row["value"], row["low"], row["high"], bool(row["suspicious"]))
            for row in rows.to_dict("records")
        )
        yield MaskingCheck(int(str(epoch)), int(rows["n"].iloc[0]), tuple(findings))


def masking_evidence(run: MaskingRun) -> tuple[str, ...]:
    """Return stored evidence of masked gradients in words, from the epoch with most evidence, or the later one."""
    checks = [each for each in masking_checks(run) if each.evidence]
    if not checks:
        return ()
    worst = max(checks, key=lambda each: (len(each.evidence), each.epoch))
    first, *rest = worst.evidence
    return (f"at epoch {worst.epoch}, {first}", *rest)

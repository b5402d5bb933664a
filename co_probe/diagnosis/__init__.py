"""From the accuracy curves of a training run to episodes of catastrophic overfitting and a verdict."""

from co_probe.diagnosis.episodes import Episode
from co_probe.diagnosis.stored import verdict_of
from co_probe.diagnosis.verdict import KINDS, Verdict, verdict

__all__ = ["KINDS", "Episode", "Verdict", "verdict", "verdict_of"]

"""Training of a run: the loop, per-epoch measurements, recording and resuming."""

"""Training a run: the loop, its per-epoch measurements, and a run as one function call."""

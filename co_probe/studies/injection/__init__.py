"""Catastrophic overfitting that injected features induce (arXiv 2206.08242)."""

"""Robust memorisation: clean generalisation with robust overfitting (arXiv 2306.01271)."""

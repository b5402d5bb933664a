"""Diagnostics: each turns the checkpoints of a run into a tidy table."""

"""Watching a training loop: the monitor for any PyTorch loop, and the alarm that precedes a collapse."""

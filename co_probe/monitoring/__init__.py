"""Monitoring of any PyTorch training loop."""

"""Grids of runs, and executors that train them."""

"""Grids of runs and the processes that train them."""

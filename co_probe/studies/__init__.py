"""The two sister papers: data, models, probes and figures that are registered from outside the core."""

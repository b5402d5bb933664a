"""Numerics: intervals, eigenvalues, cosine transform, change points, random seeds."""

"""Numbers: intervals, eigenvalues, cosine transform, random seeds."""

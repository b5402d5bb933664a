"""What people look at: the HTML report of runs, the live view of a run, and TensorBoard events."""

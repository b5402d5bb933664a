"""Reports for people: the HTML report, the live view of a run, and TensorBoard events."""

"""Execution of models: precision, compilation, evaluation in eval mode."""

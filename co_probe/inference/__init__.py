"""How a model is executed: precision, compilation, evaluation in eval mode."""

"""What a model is evaluated on, and by which metric."""

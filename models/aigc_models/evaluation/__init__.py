"""What a model is judged on, and by which measure."""

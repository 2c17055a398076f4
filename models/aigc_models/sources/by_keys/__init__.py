"""Networks that others trained, recognized by the names and shapes of their tensors."""

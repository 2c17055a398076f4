"""Sessions over TensorRT and TensorRT-RTX."""

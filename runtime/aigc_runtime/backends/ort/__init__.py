"""Sessions over ONNX Runtime."""

"""From PyTorch to an ONNX graph that holds what the model computes and no more."""

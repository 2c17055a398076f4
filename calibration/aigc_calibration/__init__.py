"""Calibration and quantization of ONNX graphs."""

"""Calibration and quantisation of ONNX graphs."""

"""Engines of TensorRT and TensorRT-RTX: checked, configured, built, read back."""

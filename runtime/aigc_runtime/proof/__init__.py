"""Proof on the device: verification against PyTorch's reference, and timing."""

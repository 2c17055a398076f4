"""Proof on the host: a session against PyTorch."""

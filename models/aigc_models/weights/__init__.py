"""Weights and configs on disk, checked and loaded."""

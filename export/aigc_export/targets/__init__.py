"""Targets, one file or folder each: all that the line knows of an engine on a device."""

DEFAULT_TARGET = "ort-cpu"
"""The target of an export that names none."""

"""Engines, one file each, imported when asked for."""

"""Runs bundles on a device with numpy and one inference engine."""

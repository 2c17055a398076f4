"""Bring models in: a shipped name, a folder, or the user's own code, each to a `Program`."""

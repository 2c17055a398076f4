"""What this device has, and whether an engine runs on it."""

"""Pictures and texts: read, split, kept with a checkpoint."""

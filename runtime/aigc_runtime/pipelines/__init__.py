"""Generation loops, one file per family."""

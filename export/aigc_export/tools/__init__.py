"""Work on finished bundles: compare, verify, time."""

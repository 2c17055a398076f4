"""Training-ready definitions: one model, its frozen config and its loss per file."""

"""The shipped folder: its manifest, its files, its signature."""

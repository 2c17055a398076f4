"""Prepare the graph of an export and the data that it is calibrated with."""

"""What comes before an engine: the prepared graph and the data that it is calibrated with."""

"""From a graph to the files of an engine, one module per engine."""

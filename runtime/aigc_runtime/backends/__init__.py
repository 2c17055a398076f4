"""Back-ends, one folder each: what the runtime knows of a kind of engine. Its library is imported when one opens."""

"""What the operating system and the processor give: signals, streams, memory, instruction sets."""

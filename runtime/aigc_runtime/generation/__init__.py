"""The mathematics of generating: random numbers, schedules, samplers, logits, tokenizers."""

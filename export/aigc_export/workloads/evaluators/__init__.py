"""Evaluate engines against one reference, sample by sample; the reference's side is computed once."""

"""Mixed precision: which sites a graph can afford to run in low precision, and which it cannot."""

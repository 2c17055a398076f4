"""Training-ready PyTorch definitions of the three generator families."""

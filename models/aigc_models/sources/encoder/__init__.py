"""Language models of PyTorch's own `nn.TransformerEncoder` with a causal mask, as its tutorial has."""

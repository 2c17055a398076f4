"""StyleGAN2: the generator, with the tensor names of its public PyTorch form."""

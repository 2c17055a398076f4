"""Folders that diffusers wrote: a UNet2DModel alone, or a pipeline of one with its scheduler."""

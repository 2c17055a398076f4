"""Calibration data of each kind: seeded, finite, streamed, and drawn as the pipeline draws it.

What a pipeline would feed to the engine is recorded while it runs over the float graph: a language model sees real
text, first as a prompt and then token by token with a filled cache; a diffusion model sees its own sampling
trajectory, at every timestep, for every class, with and without its condition; a GAN sees its true latents and
classes. Only one chunk of records is held at a time.
"""

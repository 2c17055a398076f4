"""Calibration data: seeded, finite, streamed, and drawn as the pipeline draws it.

What a pipeline would feed to the engine is recorded while it runs over the float graph: a language model sees real
text, first as a prompt and then token by token with a filled cache; a diffusion model sees its own sampling
trajectory, at every timestep, for every class, with and without its condition; a GAN sees its true latents and
classes. Only one chunk of records is held at a time.
"""

from aigc_calibration.data.arrays import ArrayData, choose_rows
from aigc_calibration.data.diffusion import CONTEXT, NULL_CONTEXT, DiffusionData
from aigc_calibration.data.expected import expected_arrays
from aigc_calibration.data.gan import GanData
from aigc_calibration.data.images import ImageData
from aigc_calibration.data.npz import NpzRows
from aigc_calibration.data.protocol import CalibrationData
from aigc_calibration.data.text import TextData

__all__ = [
    "CONTEXT",
    "NULL_CONTEXT",
    "ArrayData",
    "CalibrationData",
    "DiffusionData",
    "GanData",
    "ImageData",
    "NpzRows",
    "TextData",
    "choose_rows",
    "expected_arrays",
]

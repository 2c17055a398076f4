"""Calibration and quantization of ONNX graphs."""

import logging

# Without it, Python would print warnings of an application that sets up no logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())

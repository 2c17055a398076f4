"""Calibration data: what it is, the user's own arrays, and draws that keep samples balanced.

What the samples of a model are is known where its pipeline is known; this package takes anything that gives batches.
"""

from aigc_calibration.data.arrays import ArrayData, choose_rows
from aigc_calibration.data.expected import expected_arrays
from aigc_calibration.data.npz import NpzRows
from aigc_calibration.data.protocol import CalibrationData, row_weights, short_rows

__all__ = ["ArrayData", "CalibrationData", "NpzRows", "choose_rows", "expected_arrays", "row_weights", "short_rows"]

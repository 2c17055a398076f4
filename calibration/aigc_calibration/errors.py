"""Errors of calibration and quantization."""

from __future__ import annotations

from aigc_runtime.errors import InputError, ParityError

__all__ = ["CalibrationError", "PlanError"]


class CalibrationError(InputError):
    """Calibration data, a calibration file or a configuration cannot be used."""


class PlanError(ParityError):
    """A plan cannot be carried out on a graph, or the engine does not run what the plan says."""

"""What can go wrong in calibration and quantization."""

from __future__ import annotations

from aigc_runtime.errors import InputError, ParityError

__all__ = ["CalibrationError", "PlanError"]


class CalibrationError(InputError):
    """Calibration data, a cache or a configuration that cannot be used."""


class PlanError(ParityError):
    """A plan that cannot be carried out on a graph, or an engine that does not run what the plan says."""

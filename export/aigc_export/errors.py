"""Errors of the toolchain, beside those of the runtime."""

from __future__ import annotations

from aigc_runtime.errors import AigcError, EngineError, ParityError

__all__ = ["CaptureError", "GraphRefusedError", "PassError", "PrecisionError", "SlowerError"]


class CaptureError(AigcError):
    """PyTorch's exporter could not turn a module into a graph."""


class PassError(AigcError):
    """A rewrite made the graph invalid, or changed what it computes."""

    exit_code = 3


class GraphRefusedError(EngineError):
    """An engine's compiler does not take a graph, or would take it and compute something else."""


class PrecisionError(ParityError):
    """An engine was built in another precision than was asked for. Nothing is published."""


class SlowerError(AigcError):
    """A precision that was to save time takes longer than fp32. Nothing is published."""

    exit_code = 3

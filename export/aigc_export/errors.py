"""Errors of the toolchain, beside those of the runtime."""

from __future__ import annotations

from aigc_runtime.errors import AigcError

__all__ = ["CaptureError", "PassError"]


class CaptureError(AigcError):
    """PyTorch's exporter could not turn a module into a graph."""


class PassError(AigcError):
    """A rewrite made the graph invalid, or changed what it computes."""

    exit_code = 3

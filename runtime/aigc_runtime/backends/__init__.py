"""Engines, one file each, imported when a bundle asks for one."""

from __future__ import annotations

from collections.abc import Callable

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.session import Session
from aigc_runtime.errors import InputError, UnknownNameError
from aigc_runtime.io.printable import shown

__all__ = ["ENGINES", "check_threads", "open_session"]


def _open_ort(bundle: Bundle, threads: int | None) -> Session:
    from aigc_runtime.backends.ort.session import OrtSession

    manifest, provider = bundle.manifest, bundle.manifest.engine.provider
    # The graph comes from the very bytes that were hashed. External data is read from the bundle's folder and nowhere
    # else; those files were hashed when the bundle was opened.
    with bundle.unless_replaced(opened_by_path=True):
        return OrtSession(
            bundle.read(manifest.engine.file),
            manifest.interface,
            folder=bundle.folder.location,
            threads=threads,
            device="cpu" if provider is None else provider.name,
        )


def _open_trt(bundle: Bundle, _threads: int | None) -> Session:
    from aigc_runtime.backends.trt.session import open_trt

    return open_trt(bundle)


MAX_THREADS = 1024
"""More than any machine gains from: each thread takes memory of its own."""

ENGINES: dict[str, Callable[[Bundle, int | None], Session]] = {
    "onnxruntime": _open_ort,
    "tensorrt": _open_trt,
    "tensorrt-rtx": _open_trt,
}
"""`engine.kind` of a manifest -> how to open it. A manifest cannot name code."""


def check_threads(threads: int | None) -> int | None:
    """The number of threads as a Python integer, or None.

    Raises:
        InputError: below 1, above `MAX_THREADS`, or not an integer.
    """
    if threads is None:
        return None
    count = as_integer(threads)
    if count is None or not 1 <= count <= MAX_THREADS:
        raise InputError(f"threads is {shown(threads)}", hint=f"must be an integer from 1 to {MAX_THREADS}")
    return count


def open_session(bundle: Bundle, *, threads: int | None = None) -> Session:
    """Load a bundle's engine.

    Args:
        bundle: an opened bundle.
        threads: threads inside an operator, for engines that run on processors; None takes all that the process may
            use. An engine on a GPU has none to set.

    Raises:
        UnknownNameError: an engine that this runtime does not know.
        EngineMissingError: its package is not installed; the hint is the install line.
        EngineError: it does not load.
        InputError: `threads` below 1, or above `MAX_THREADS`.
    """
    threads = check_threads(threads)
    kind = bundle.manifest.engine.kind
    if kind not in ENGINES:
        raise UnknownNameError("engine", kind, ENGINES)
    return ENGINES[kind](bundle, threads)

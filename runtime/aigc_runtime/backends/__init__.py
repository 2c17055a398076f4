"""Engines, one file each, imported when a bundle asks for one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.errors import InputError, UnknownNameError
from aigc_runtime.io.printable import shown

__all__ = ["ENGINES", "check_threads", "open_program", "open_session"]

_LOG = logging.getLogger(__name__)


def _open_ort(bundle: Bundle, name: str, threads: int | None) -> Session:
    from aigc_runtime.backends.ort.session import OrtSession

    engine = bundle.manifest.engines[name]
    # The graph comes from the very bytes that were hashed. External data is read from the bundle's folder and nowhere
    # else; those files were hashed when the bundle was opened.
    with bundle.unless_replaced(opened_by_path=True):
        return OrtSession(
            bundle.read(engine.file),
            bundle.manifest.interfaces[name],
            folder=bundle.folder.location,
            threads=threads,
            device="cpu" if engine.provider is None else engine.provider.name,
        )


def _open_trt(bundle: Bundle, name: str, _threads: int | None) -> Session:
    from aigc_runtime.backends.trt.session import open_trt

    return open_trt(bundle, name)


MAX_THREADS = 1024
"""More than any machine gains from: each thread takes memory of its own."""

ENGINES: dict[str, Callable[[Bundle, str, int | None], Session]] = {
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


def open_session(bundle: Bundle, *, engine: str = MAIN_ENGINE, threads: int | None = None) -> Session:
    """Load one engine of a bundle.

    Args:
        bundle: an opened bundle.
        engine: its name.
        threads: threads inside an operator, for engines that run on processors; None takes all that the process may
            use. An engine on a GPU has none to set.

    Raises:
        UnknownNameError: the bundle has no such engine, or this runtime does not know its kind.
        EngineMissingError: its package is not installed; the hint is the install line.
        EngineError: it does not load.
        InputError: `threads` below 1, or above `MAX_THREADS`.
    """
    threads = check_threads(threads)
    if engine not in bundle.manifest.engines:
        raise UnknownNameError("engine", engine, bundle.manifest.engines)
    kind = bundle.manifest.engines[engine].kind
    if kind not in ENGINES:
        raise UnknownNameError("engine", kind, ENGINES)
    started = time.perf_counter()
    session = ENGINES[kind](bundle, engine, threads)
    _LOG.info("engine %s: %s, opened in %.2f s", engine, kind, time.perf_counter() - started)
    return session


def open_program(bundle: Bundle, *, threads: int | None = None) -> OpenProgram:
    """Load every engine of a bundle.

    Args:
        bundle: an opened bundle.
        threads: see `open_session`.

    Raises:
        AigcError: as `open_session` does; no session stays open then.
    """
    sessions = dict[str, Session]()
    try:
        for name in bundle.manifest.engines:
            sessions[name] = open_session(bundle, engine=name, threads=threads)
    except BaseException:
        OpenProgram(sessions).close()
        raise
    return OpenProgram(sessions, bundle.manifest.state_names)

"""From a bundle to sessions, and to a pipeline that runs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from aigc_runtime.backends.base import EngineFiles
from aigc_runtime.backends.threads import check_threads
from aigc_runtime.bundle.bundle import Bundle, retry_replaced
from aigc_runtime.bundle.engine_facts import engine_facts
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.bundle.signature import PublicKey
from aigc_runtime.core.lazy_session import LazySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.pipelines import AnyPipeline, kind_of, make_pipeline

__all__ = ["open_pipeline", "open_program", "open_session"]

_LOG = logging.getLogger(__name__)


def open_session(bundle: Bundle, *, engine: str = MAIN_ENGINE, threads: int | None = None) -> Session:
    """Load one engine of a bundle.

    Args:
        bundle: an opened bundle.
        engine: its name.
        threads: threads inside an operator, for engines that run on processors; None takes all that the process may
            use. An engine on a GPU has none to set.

    Raises:
        UnknownNameError: the bundle has no such engine.
        EngineMissingError: its package is not installed; the hint is the install line.
        EngineError: it does not load.
        InputError: `threads` below 1, or above `MAX_THREADS`.
    """
    threads = check_threads(threads)
    if engine not in bundle.manifest.engines:
        raise UnknownNameError("engine", engine, bundle.manifest.engines)
    info = bundle.manifest.engines[engine]
    files = EngineFiles(
        facts=engine_facts(bundle.manifest, engine),
        interface=bundle.manifest.interfaces[engine],
        file=info.file,
        sha256=bundle.file(info.file).sha256,
        folder=bundle.folder.location,
        read=bundle.read,
    )
    started = time.perf_counter()
    # A back-end may open files of the folder by their path.
    with bundle.unless_replaced(opened_by_path=True):
        session = info.backend.open(files, threads)
    _LOG.info("engine %s: %s, opened in %.2f s", engine, info.kind, time.perf_counter() - started)
    return session


def open_program(bundle: Bundle, *, threads: int | None = None, low_memory: bool = False) -> OpenProgram:
    """Load every engine of a bundle; its assets are read from the bundle when they are asked for.

    Of two engines over one state, such as those of a language model, one stands for both where this processor's kernels
    would not compute what the other is for, or where that one would only save time and memory is short.

    Args:
        bundle: an opened bundle.
        threads: see `open_session`.
        low_memory: load an engine without carried state when it is first run, and let a pipeline close it when it has
            done its work; the bundle must stay open. Of two engines over one state, one that saves time alone is not
            loaded.

    Raises:
        AigcError: as `open_session` does; no session stays open then.
    """
    sessions, stands_in = dict[str, Session](), _stand_ins(bundle, low_memory=low_memory)
    try:
        for name, interface in bundle.manifest.interfaces.items():
            if name in stands_in:
                continue
            if low_memory and not interface.state:
                sessions[name] = LazySession(interface, partial(open_session, bundle, engine=name, threads=threads))
            else:
                sessions[name] = open_session(bundle, engine=name, threads=threads)
    except BaseException:
        OpenProgram(sessions).close()
        raise
    for name, other in stands_in.items():
        _LOG.info("engine %s: %s stands in", name, other)
        sessions[name] = sessions[other]
    on_cpu = all(engine.runs_on_cpu for engine in bundle.manifest.engines.values())
    return OpenProgram(sessions, bundle.manifest.state_names, bundle.assets, on_cpu=on_cpu)


def _stand_ins(bundle: Bundle, *, low_memory: bool) -> dict[str, str]:
    """Map engines that are not loaded to those that stand in for them: over the same state, with the same interface.

    An engine is not loaded where this processor would compute it wrongly, or to save memory where it only saves time.
    """
    manifest, found = bundle.manifest, dict[str, str]()
    right = {
        name
        for name, info in manifest.engines.items()
        if info.backend.computes_here(info.build) and not (low_memory and info.backend.saves_time(info.build))
    }
    for name in sorted(manifest.engines.keys() - right):
        interface, state = manifest.interfaces[name], manifest.state_names.get(name)
        alike = (one for one in manifest.engines if one in right and manifest.interfaces[one] == interface)
        if state is not None and (other := next((o for o in alike if manifest.state_names.get(o) == state), None)):
            found[name] = other
    return found


def open_pipeline(
    bundle: Bundle | Path | str,
    *,
    threads: int | None = None,
    expect_manifest_sha256: str | None = None,
    trusted_keys: Sequence[PublicKey] | None = None,
    low_memory: bool = False,
) -> AnyPipeline:
    """Open a bundle, load its engines and make its pipeline.

    The pipeline is a context manager: `with open_pipeline(path) as pipeline` closes its engines at the end.

    Args:
        bundle: an opened bundle, or the path of one. A path may be published to at the same time: the pipeline is that
            of the old bundle or of the new one.
        threads: see `open_session`.
        expect_manifest_sha256: see `Bundle.open`; only with a path.
        trusted_keys: see `Bundle.open`; only with a path.
        low_memory: see `open_program`; only with an opened bundle, which must stay open.

    Raises:
        BundleError: the bundle is damaged, another one than expected, or not signed by a trusted key.
        ConfigError: a digest or keys for a bundle that is open already, or `low_memory` for one that is not.
        EngineError: one of its engines cannot be loaded.
    """
    if isinstance(bundle, Bundle):
        late = {"expect_manifest_sha256": expect_manifest_sha256, "trusted_keys": trusted_keys}
        if given := [name for name, value in late.items() if value is not None]:
            raise ConfigError(
                f"{given[0]} comes too late: the bundle is open already", hint=f"give {given[0]} to Bundle.open"
            )
        return _open(bundle, threads, low_memory=low_memory)
    if low_memory:
        raise ConfigError(
            "low_memory with a path: engines are read while the pipeline runs",
            hint="give an opened bundle, and close it behind the pipeline: `with Bundle.open(path) as bundle`",
        )

    def opened() -> AnyPipeline:
        with Bundle.open(bundle, expect_manifest_sha256=expect_manifest_sha256, trusted_keys=trusted_keys) as found:
            return _open(found, threads)

    return retry_replaced(opened)


@contextlib.contextmanager
def _reading_ahead(bundle: Bundle) -> Iterator[None]:
    """Read what the pipeline will read while engines are loaded, which takes about as long as a large tokenizer."""
    settings = bundle.manifest.pipeline.settings
    read_ahead = kind_of(settings).read_ahead
    if read_ahead is None:
        yield
        return

    def read() -> None:
        with contextlib.suppress(Exception):  # it is raised when the pipeline is made
            read_ahead(settings, bundle.assets)

    reader = threading.Thread(target=read, name="read ahead")
    reader.start()
    try:
        yield
    finally:
        reader.join()


def _open(bundle: Bundle, threads: int | None, *, low_memory: bool = False) -> AnyPipeline:
    with _reading_ahead(bundle):
        program = open_program(bundle, threads=threads, low_memory=low_memory)
    try:
        pipeline = bundle.manifest.pipeline
        return make_pipeline(program, pipeline.settings, pipeline.engines)
    except BaseException:
        program.close()
        raise

"""Write a network's engine to a file: streamed where the library can, and either whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.progress import Watch
from aigc_runtime.errors import EngineError, OutputError

__all__ = ["write_engine"]


def write_engine(library: Library, builder: Any, network: Any, config: Any, destination: Path, watch: Watch) -> bool:
    """Build an engine and write its file.

    Args:
        library: that builds.
        builder: its builder.
        network: parsed.
        config: of the build.
        destination: the file.
        watch: of the build; what it has kept by the end is raised.

    Returns:
        Whether the library built an engine; if not, it said why in its log, and there is no file.

    Raises:
        OutputError: the file cannot be written, or not all of it.
        EngineError: the library built an engine without a byte.
    """
    staged = destination.with_name(f"{destination.name}.part")
    try:
        with staged.open("wb") as file:
            built, size = _build_into(library.module, file, destination, builder, network, config, watch)
        watch.check()
        if built:
            _check_size(staged, size, destination)
            staged.replace(destination)
    except OSError as err:
        raise _cannot_write(destination, err) from err
    finally:
        staged.unlink(missing_ok=True)
    return built


def _build_into(
    module: Any, file: BinaryIO, destination: Path, builder: Any, network: Any, config: Any, watch: Watch
) -> tuple[bool, int]:
    """Build into a file; returns whether it was built, and the number of bytes that the library gave."""
    if hasattr(builder, "build_serialized_network_to_stream"):
        stream = _stream(module, file, destination, watch)
        return bool(builder.build_serialized_network_to_stream(network, config, stream)), stream.taken
    plan = builder.build_serialized_network(network, config)  # TensorRT before 10.13
    if plan is None:
        return False, 0
    file.write(plan)
    return True, memoryview(plan).nbytes


def _check_size(staged: Path, size: int, destination: Path) -> None:
    found = staged.stat().st_size
    if found != size:
        raise OutputError(
            f"the engine {str(destination)!r} has {size:,} bytes, {found:,} of them were written",
            hint="check the disk, or choose another folder; nothing was left there",
        )
    if not size:
        raise EngineError(
            "the library says that it built an engine, and gave no byte of it",
            hint="nothing was written; please report the model and the version of the library",
        )


def _stream(module: Any, file: BinaryIO, destination: Path, watch: Watch) -> Any:
    """A stream of that library over a file; what goes wrong is kept, for it must not cross C++ frames."""

    class Stream(module.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IStreamWriter.__init__(self)
            self.taken = 0

        def write(self, data: Any) -> int:
            written = 0
            with watch.keeping():
                try:
                    self.taken += memoryview(data).nbytes
                    written = file.write(data)
                except OSError as err:
                    raise _cannot_write(destination, err) from err
            return written

    return Stream()


def _cannot_write(destination: Path, err: OSError) -> OutputError:
    return OutputError(
        f"the engine {str(destination)!r} cannot be written: {err.strerror or err}",
        hint="make room or choose another folder; nothing was left there",
    )

"""From a network to a file: streamed where the library can, and either whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aigc_export.build.trt_library import Library
from aigc_runtime.errors import OutputError

__all__ = ["write_engine"]


def write_engine(library: Library, builder: Any, network: Any, config: Any, destination: Path) -> bool:
    """Build and write.

    Args:
        library: that builds.
        builder: its builder.
        network: parsed.
        config: of the build.
        destination: the file.

    Returns:
        Whether the library built an engine; if not, it said why in its log, and there is no file.

    Raises:
        OutputError: the file cannot be written.
    """
    if not hasattr(builder, "build_serialized_network_to_stream"):  # TensorRT before 10.13
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            return False
        try:
            destination.write_bytes(plan)
        except OSError as err:
            raise _cannot_write(destination, err) from err
        return True
    staged = destination.with_name(f"{destination.name}.part")
    failed: list[OSError] = []
    try:
        with staged.open("wb") as file:
            built = builder.build_serialized_network_to_stream(network, config, _stream(library.module, file, failed))
        if failed:
            raise failed[0]
        if built:
            staged.replace(destination)
    except OSError as err:
        raise _cannot_write(destination, err) from err
    finally:
        staged.unlink(missing_ok=True)
    return bool(built)


def _stream(module: Any, file: Any, failed: list[OSError]) -> Any:
    """A stream of that library over a file; what goes wrong is kept, for it must not cross C++ frames."""

    class Stream(module.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IStreamWriter.__init__(self)

        def write(self, data: Any) -> int:
            try:
                return int(file.write(data))
            except OSError as err:
                failed.append(err)
                return 0

    return Stream()


def _cannot_write(destination: Path, err: OSError) -> OutputError:
    return OutputError(
        f"the engine {str(destination)!r} cannot be written: {err.strerror or err}",
        hint="make room or choose another folder; nothing was left there",
    )

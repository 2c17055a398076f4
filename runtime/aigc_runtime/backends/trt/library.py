"""TensorRT, TensorRT-RTX or TensorRT's lean runtime as one module, and what it says while it works.

A version is compared with the one that built the engine, never to tell what a library can do: `hasattr` does.
"""

from __future__ import annotations

import importlib
from collections import deque
from dataclasses import dataclass
from typing import Any

from aigc_runtime.backends.trt.build_info import EngineBuild
from aigc_runtime.backends.trt.requirements import install_line, modules_for, runs_version, version_needed
from aigc_runtime.errors import EngineError, EngineMissingError

__all__ = ["Library", "Log", "load_library"]

_MOST_MESSAGES = 64
_LOGS: dict[str, tuple[Any, Log]] = {}


class Log:
    """The last errors that a library reported, for messages: most of its calls only return None or False."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=_MOST_MESSAGES)

    def add(self, text: str) -> None:
        """Keep an error."""
        self._errors.append(text)

    def take(self) -> str:
        """What was kept, each text once, and forget it."""
        found: list[str] = []
        while self._errors:
            found.append(self._errors.popleft())
        return "; ".join(dict.fromkeys(found)) or "no reason given"


@dataclass(frozen=True, kw_only=True)
class Library:
    """A loaded library: its module, the process's only logger for it, and what that has heard."""

    module: Any
    logger: Any
    log: Log

    def fail(self, what: str, *, hint: str) -> EngineError:
        """An error with the library's own words."""
        version = getattr(self.module, "__version__", "")
        return EngineError(f"{self.module.__name__} {version} {what}: {self.log.take()}", hint=hint)


def load_library(build: EngineBuild) -> Library:
    """Import the library that runs an engine: the first that is here in a version that does.

    Raises:
        EngineMissingError: none is installed, can be loaded and has the version; the hint is the install line.
    """
    reasons = []
    for name in modules_for(build):
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as err:
            reasons.append(f"{name}: {err}")
            continue
        version = str(getattr(module, "__version__", build.version))
        if runs_version(build, version):
            return library_of(module)
        reasons.append(f"{name} is {version}, the engine needs {version_needed(build)}")
    raise EngineMissingError(
        f"this bundle needs a library that is not here ({'; '.join(reasons)})", hint=install_line(build)
    )


def library_of(module: Any) -> Library:
    """A module with its logger. A library keeps the first logger that it is given for the life of the process."""
    if module.__name__ not in _LOGS:
        _LOGS[module.__name__] = _make_logger(module)
    logger, log = _LOGS[module.__name__]
    return Library(module=module, logger=logger, log=log)


def _make_logger(module: Any) -> tuple[Any, Log]:
    log = Log()
    serious = {module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR}

    class Collector(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in serious:
                log.add(text)

    return Collector(), log

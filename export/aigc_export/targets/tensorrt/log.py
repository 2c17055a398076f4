"""Collect the messages of a TensorRT build, and read the facts that no call returns.

Some failures are a line of the log and nothing else; so are the layers of the compiled engine where no device can open
it. The wording was read in TensorRT-RTX 1.7; what another version words differently is not found, which every reader
here treats as "not proven", never as "all is well".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Log",
    "MemoryNeed",
    "errors",
    "lacks_workspace",
    "layer_dump",
    "memory_need",
    "unreachable_targets",
    "unused_inputs",
]


@dataclass
class Log:
    """Messages of one build, as (severity, text).

    Attributes:
        messages: in order.
        keep: gets what goes wrong while the library speaks, for it must not cross C++ frames; None between builds.
    """

    messages: list[tuple[str, str]] = field(default_factory=list)
    keep: Callable[[BaseException], None] | None = None

    def hear(self, severity: Any, text: str) -> None:
        """Keep one message, with the library's own severity."""
        try:
            self.messages.append((str(severity).rpartition(".")[2], text))
        except BaseException as err:
            if self.keep is None:
                raise
            self.keep(err)

    def texts(self) -> list[str]:
        """Texts of the messages."""
        return [text for _, text in self.messages]


def make_logger(module: Any) -> tuple[Any, Log]:
    """Make a logger for a library that keeps every message."""
    log = Log()

    class Collector(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            log.hear(severity, text)

    return Collector(), log


_NO_DRIVER = re.compile(r"cudaError 35\b|CUDA driver version is insufficient")


def errors(log: Log, *, ahead_of_time: bool = False) -> str:
    """List the messages of severity error, each once, in order.

    Args:
        log: of the build.
        ahead_of_time: the library needs no driver to build: a missing driver is reported only if nothing else is.
    """
    found = dict.fromkeys(text for severity, text in log.messages if severity in {"ERROR", "INTERNAL_ERROR"})
    telling = [text for text in found if not (ahead_of_time and _NO_DRIVER.search(text))]
    return "; ".join(telling or found)


def lacks_workspace(log: Log) -> bool:
    """Check whether some operator had no kernel that does with the scratch memory it was given."""
    return "workspace limit" in errors(log)


_UNUSED = re.compile(r"Unused Input: (\S+)")


def unused_inputs(log: Log) -> list[str]:
    """Inputs of operators that the parser dropped: it warns and goes on, and the engine computes something else."""
    return [match[1] for text in log.texts() for match in _UNUSED.finditer(text)]


_UNREACHABLE = re.compile(
    r"(?:not be able to run on|Cannot compile for) target\(s\):? ([^,]+(?:, sm\d+)*), because (.+)"
)


def unreachable_targets(log: Log) -> list[tuple[tuple[str, ...], str]]:
    """(devices such as "8.6", why) that the engine cannot run on, although they were asked for."""
    found = []
    for text in log.texts():
        for match in _UNREACHABLE.finditer(text):
            devices = re.findall(r"sm(\d+)(\d)", match[1])
            found.append(
                (tuple(f"{major}.{minor}" for major, minor in devices), match[2].split(" In ")[0].rstrip(". "))
            )
    return found


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Device memory of an engine in bytes; None where the log does not say."""

    weights: int | None
    activations: int | None

    @property
    def total(self) -> int | None:
        """Sum of both; None unless both are known."""
        return None if self.weights is None or self.activations is None else self.weights + self.activations


def memory_need(log: Log) -> MemoryNeed:
    """Read the memory that the builder reports; the last report counts."""
    return MemoryNeed(weights=_last(log, "Total Weights Memory"), activations=_last(log, "Total Activation Memory"))


def _last(log: Log, what: str) -> int | None:
    pattern = re.compile(rf"{what}: (\d+) bytes")
    found = [int(match[1]) for text in log.texts() for match in pattern.finditer(text)]
    return found[-1] if found else None


def layer_dump(log: Log) -> Sequence[str]:
    """One line per layer of the compiled engine, where the builder printed them; the last print counts."""
    for text in reversed(log.texts()):
        if text.startswith("Layers:"):
            return [line for line in text.splitlines() if line.startswith("Name: ")]
    return ()

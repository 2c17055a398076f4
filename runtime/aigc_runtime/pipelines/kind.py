"""What the runtime knows of a kind of pipeline: everything that would otherwise be a branch on it.

A kind is one object; `kinds.KINDS` is the table of them, and installed packages may bring more.
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.text_readers import TextReaders

__all__ = [
    "SINGLE_ENGINE",
    "AnyPipeline",
    "Job",
    "Metric",
    "Option",
    "PipelineKind",
    "Request",
    "ResultForm",
    "Results",
    "Roles",
    "Verb",
    "require_roles",
]

Roles = Mapping[str, str]
"""Role of an engine in its pipeline -> the engine's name."""

Request = Mapping[str, Any]
"""Keyword arguments of `generate`, arrays among them."""

Results = Mapping[str, Array]
"""What a request gave: arrays by name."""

SINGLE_ENGINE: Roles = MappingProxyType({MAIN_ENGINE: MAIN_ENGINE})
"""The roles of a pipeline of one engine."""

RESERVED = ("kind", "engines")
"""Fields of a manifest's `pipeline` that no settings may have."""


class AnyPipeline(Protocol):
    """A pipeline of any kind. A context manager: closes its program at the end."""

    @property
    def program(self) -> OpenProgram:
        """The engines that it drives."""
        ...

    @property
    def settings(self) -> Any:
        """How it drives them."""
        ...

    @property
    def generate(self) -> Callable[..., Any]:
        """Makes what this kind of pipeline makes."""
        ...

    def close(self) -> None:
        """Close the program."""
        ...

    def __enter__(self) -> Any:
        """The pipeline, its program closed at the end of the block."""
        ...

    def __exit__(self, *_: object) -> None:
        """Close the program."""
        ...


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How alike the results of two runs of one request are; more is better.

    Attributes:
        name: of the measure.
        measure: (reference, actual) -> its value.
        limit: the name of the limit that it is held against, a key of `Tolerances.limits()`.
    """

    name: str
    measure: Callable[[Results, Results], float]
    limit: str


@dataclass(frozen=True, kw_only=True)
class ResultForm:
    """What is known of one array of a result before it is computed.

    Attributes:
        what: the result in words.
        dtype: its element type.
        shape: its sizes; None is any.
        min_bytes: that it has at least, its file's header aside.
        max_bytes: that it has at most; None where that is not known.
    """

    what: str
    dtype: str
    shape: tuple[int | None, ...]
    min_bytes: int = 0
    max_bytes: int | None = None

    def fits(self, array: Array) -> bool:
        """Whether an array is of this form."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(size in (None, found) for size, found in zip(self.shape, array.shape, strict=True))
        )

    def __str__(self) -> str:
        """Type and sizes, as messages show them."""
        return f"{self.dtype} [{', '.join('any' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of `generate` on the command line. Kinds that share an option share the object.

    Attributes:
        flags: its spellings, the long one last.
        name: of its value among the parsed arguments.
        group: under which heading the help shows it.
        help: one line.
        type: text -> value.
        metavar: what stands for the value in the help; None for the name.
        repeated: whether it may be given several times; its value is then a list.
    """

    flags: tuple[str, ...]
    name: str
    group: str
    help: str
    type: Callable[[str], Any] = str
    metavar: str | None = None
    repeated: bool = False


class Job(Protocol):
    """What a command line asks `generate` for, checked before any engine is loaded."""

    @property
    def output(self) -> Path | None:
        """The file that is written; None where the result goes to standard output."""
        ...

    @property
    def bounds_memory(self) -> bool:
        """Whether what a processor computes may take no more memory than is free."""
        ...

    def run(self, pipeline: Any) -> None:
        """Generate and write."""
        ...

    def report(self) -> None:
        """Print what was written, once the engine is closed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Verb:
    """The command `generate`, or `chat`, for one kind of pipeline.

    Attributes:
        options: that it takes; all others are refused.
        prepare: (parsed arguments, the pipeline over engines that cannot run yet) -> what is asked for.
    """

    options: tuple[Option, ...]
    prepare: Callable[[Namespace, Any], Job]


def _nothing(_pipeline: Any) -> None:
    """Settings without a meaning beyond what opening the pipeline checks."""


def _no_arrays(_pipeline: Any, _arrays: Results) -> None:
    """A request whose arguments are never arrays."""


def _no_text(_settings: Any) -> bool:
    """A pipeline that reads no text, or bytes alone."""
    return False


def _no_readers(_settings: Any, _assets: Mapping[str, bytes]) -> TextReaders:
    """A pipeline that reads no text."""
    return TextReaders()


def _no_assets(_settings: Any) -> Collection[str]:
    """Settings that name no files."""
    return ()


def _no_speeds(_pipeline: Any, _runs: int) -> dict[str, float]:
    """A kind of which the time of a step and of a generation say all."""
    return {}


@dataclass(frozen=True, kw_only=True)
class PipelineKind:
    """A kind of pipeline.

    Attributes:
        name: as a manifest has it.
        settings: the dataclass of its settings, whose fields have the types that `jsonable` converts.
        open: (program, roles, settings) -> the pipeline. Raises ConfigError for roles, inputs, outputs or sizes that it
            cannot drive; looks at the sessions' interfaces and runs nothing.
        check_request: (pipeline, arguments of `generate` that are plain JSON, names of those that are arrays) -> the
            form of each result. Raises an AigcError for what `generate` would not take, and for too much.
        replay: (pipeline, request) -> results.
        metric: by which two results are compared.
        step: pipeline -> a function that does one step of the smallest work: what `bench` times.
        units: pipeline -> the name of a unit of the work that `generate_once` does, and how many it does.
        generate_once: does one small generation.
        verb: gives the command `generate`; called when that is used, so that its imports cost nothing else.
        chat: gives the command `chat`; None for a kind that cannot hold a conversation.
        speeds: (pipeline, runs) -> what else `bench` tells, as names with numbers.
        check: refuses settings that the engines contradict, where `open` does not; (pipeline) -> None.
        check_arrays: refuses arrays of a request by dtype, shape or values; (pipeline, arrays) -> None.
        assets: settings -> the files that they name, which a bundle must have among its `assets`.
        needs_text_vectors: settings -> whether token ids and prompts are part of a bundle's proof.
        text_readers: (settings, assets) -> what these are held against.
        read_ahead: (settings, assets) -> anything: reads what takes long and is kept by whoever reads it, such as a
            large tokenizer; called while engines are loaded. What fails then fails again when the pipeline is made.
            None: there is nothing.

    Raises:
        ConfigError: settings that are no dataclass, or have a field that the manifest needs itself.
    """

    name: str
    settings: type
    open: Callable[[OpenProgram, Roles, Any], Any]
    check_request: Callable[[Any, Request, Collection[str]], Mapping[str, ResultForm]]
    replay: Callable[[Any, Request], dict[str, Array]]
    metric: Metric
    step: Callable[[Any], Callable[[], object]]
    units: Callable[[Any], tuple[str, int]]
    generate_once: Callable[[Any], object]
    verb: Callable[[], Verb]
    check: Callable[[Any], None] = _nothing
    check_arrays: Callable[[Any, Results], None] = _no_arrays
    assets: Callable[[Any], Collection[str]] = _no_assets
    needs_text_vectors: Callable[[Any], bool] = _no_text
    text_readers: Callable[[Any, Mapping[str, bytes]], TextReaders] = _no_readers
    read_ahead: Callable[[Any, Mapping[str, bytes]], object] | None = None
    chat: Callable[[], Verb] | None = None
    speeds: Callable[[Any, int], Mapping[str, float]] = _no_speeds

    def __post_init__(self) -> None:
        if not dataclasses.is_dataclass(self.settings):
            raise ConfigError(f"the settings of kind {self.name!r} are {self.settings!r}", hint="must be a dataclass")
        taken = [field.name for field in dataclasses.fields(self.settings) if field.name in RESERVED]
        if taken:
            raise ConfigError(f"the settings of kind {self.name!r} have a field {taken[0]!r}", hint="rename it")


def require_roles(kind: str, roles: Roles, *allowed: tuple[str, ...]) -> None:
    """Refuse roles other than one of the sets that a kind of pipeline knows.

    Raises:
        ConfigError: lists the roles that were given, and those that are allowed.
    """
    if not any(roles.keys() == set(names) for names in allowed):
        wanted = " or ".join(", ".join(names) for names in allowed)
        raise ConfigError(
            f"a {kind} pipeline with engines for {', '.join(sorted(roles)) or 'nothing'}", hint=f"it needs: {wanted}"
        )

"""The manifest of a bundle: what the engine takes and gives, how it is used, and how it is proven.

The format is specified in docs/bundle.md. Field names here are the names in the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from aigc_runtime.bundle.engine_info import MAIN_ENGINE, EngineInfo, EngineInterface
from aigc_runtime.bundle.manifest_checks import check_meaning
from aigc_runtime.bundle.measured import Measured
from aigc_runtime.bundle.origin import Origin
from aigc_runtime.bundle.pipeline_info import PipelineInfo
from aigc_runtime.bundle.tolerances import Tolerances
from aigc_runtime.core.compare import DECIBELS, EXACT_DB, require_limit
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import StateSpec
from aigc_runtime.errors import ConfigError

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "EngineInfo",
    "EngineInterface",
    "FileInfo",
    "Manifest",
    "PipelineInfo",
    "QualityResult",
    "Reference",
    "ReferenceCase",
    "ReferenceGeneration",
    "ReferenceStep",
    "Tolerances",
    "check_file_name",
]

FORMAT = "aigc-bundle"
FORMAT_VERSION = 1
MAX_FILE_BYTES = 2**50

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OWN = ("manifest.json", "manifest.sig")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def check_file_name(name: str) -> None:
    """Refuse a name that is not a plain file name on every system.

    Raises:
        ConfigError: anything but letters, digits, `.`, `_` and `-`; a leading `.` or `-`; a trailing `.`; a name that
            Windows reserves; more than 128 characters; `manifest.json` itself, or its signature.
    """
    if not _NAME.fullmatch(name) or name.endswith(".") or _RESERVED.fullmatch(name) or name.lower() in _OWN:
        raise ConfigError(
            f"file name {name!r} is not allowed in a bundle",
            hint="letters, digits, '.', '_' and '-', at most 128, not a reserved name",
        )


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One file of the bundle: its plain name, its size in bytes and its SHA-256 in lower-case hexadecimal."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_file_name(self.path)
        if not 0 <= self.size <= MAX_FILE_BYTES:
            raise ConfigError(f"file {self.path!r} has size {self.size}")
        if not _DIGEST.fullmatch(self.sha256):
            raise ConfigError(f"file {self.path!r} has digest {self.sha256!r}", hint="64 lower-case hexadecimal digits")


@dataclass(frozen=True, kw_only=True)
class ReferenceStep:
    """One step of an engine.

    Attributes:
        engine: its name.
        inputs: name -> .npy file.
        outputs: name -> .npy file.
        min_sqnr_db: output -> its own limit, in place of those of `tolerances.tensor`: of an engine in lower precision
            whose quality holds though this output is further from PyTorch's.
    """

    engine: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    min_sqnr_db: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, limit in self.min_sqnr_db.items():
            if name not in self.outputs:
                raise ConfigError(f"min_sqnr_db names {name!r}", hint=f"the step has: {', '.join(self.outputs)}")
            require_limit("min_sqnr_db", limit, DECIBELS, lambda x: 0 < x <= EXACT_DB)


@dataclass(frozen=True, kw_only=True)
class ReferenceCase:
    """Steps that run one after the other, all engines on one carried state."""

    name: str
    steps: tuple[ReferenceStep, ...]


@dataclass(frozen=True, kw_only=True)
class ReferenceGeneration:
    """A request to the pipeline and PyTorch's result.

    Attributes:
        request: arguments of `generate` that are plain JSON.
        arrays: arguments of `generate` that are arrays -> their .npy files.
        outputs: the arrays of the result -> their .npy files.
    """

    request: dict[str, Any]
    arrays: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What PyTorch computed, and what a tokenizer and a chat template gave.

    Attributes:
        cases: steps of the engines.
        generation: a request to the pipeline.
        text: file of texts and chats with their token ids and prompts; None for a pipeline that needs none.
    """

    cases: tuple[ReferenceCase, ...]
    generation: ReferenceGeneration
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class QualityResult:
    """The model's own metric.

    Attributes:
        metric: its name.
        reference: PyTorch's.
        bundle: of the engine.
        higher_is_better: its direction.
        data: what it was measured on.
        limit: name of the tolerance that it is held against; None where it is only told.
    """

    metric: str
    reference: float
    bundle: float
    higher_is_better: bool
    data: str = ""
    limit: str | None = "max_quality_drop"

    def __post_init__(self) -> None:
        if self.limit not in (None, "max_quality_drop"):
            raise ConfigError(f"limit is {self.limit!r}", hint="must be null or 'max_quality_drop'")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle holds, and how it is used; see docs/bundle.md.

    Attributes:
        engines: name -> engine; the only engine of a bundle is called `model`.
        pipeline: what drives the engines.
        state: name -> carried tensors, which every engine that names them reads and writes.
        shared_files: files that several engines read.
        assets: files that the pipeline reads, such as a tokenizer.
        measured: what the export measured on these engines; null where it did not say.
    """

    format: Literal["aigc-bundle"]
    format_version: int
    name: str
    target: str
    precision: str
    engines: dict[str, EngineInfo]
    state: dict[str, tuple[StateSpec, ...]]
    files: tuple[FileInfo, ...]
    shared_files: tuple[str, ...]
    assets: tuple[str, ...]
    pipeline: PipelineInfo
    tolerances: Tolerances
    reference: Reference
    quality: tuple[QualityResult, ...]
    model_config: dict[str, Any]
    provenance: dict[str, str]
    origin: Origin | None = None
    measured: Measured | None = None

    @cached_property
    def interfaces(self) -> dict[str, Interface]:
        """What each engine takes and gives, by its name.

        Raises:
            ConfigError: no session could run one of them.
        """
        return {name: engine.interface.bound(self.state) for name, engine in self.engines.items()}

    @property
    def state_names(self) -> dict[str, str]:
        """Which engine reads and writes which carried state."""
        stated = {name: engine.interface.state for name, engine in self.engines.items()}
        return {name: state for name, state in stated.items() if state is not None}

    @property
    def engine(self) -> EngineInfo:
        """The engine that a pipeline of one engine drives."""
        return self.engines[MAIN_ENGINE]

    @property
    def interface(self) -> Interface:
        """The interface of that engine."""
        return self.interfaces[MAIN_ENGINE]

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(f"format_version is {self.format_version}", hint=f"known: {FORMAT_VERSION}")
        names = [f.path for f in self.files]
        folded = [n.casefold() for n in names]
        if len(set(folded)) != len(folded):
            twice = sorted({n for n in names if folded.count(n.casefold()) > 1})
            raise ConfigError(f"files holds names that differ in case only, or twice: {twice}")
        steps = [step for case in self.reference.cases for step in case.steps]
        generation = self.reference.generation
        used = {engine.file for engine in self.engines.values()} | {*self.shared_files, *self.assets}
        used |= {*generation.arrays.values(), *generation.outputs.values()}
        used |= set() if self.reference.text is None else {self.reference.text}
        used |= {file for step in steps for files in (step.inputs, step.outputs) for file in files.values()}
        if self.files and not used <= set(names):
            raise ConfigError(f"files lacks {sorted(used - set(names))}")
        check_meaning(self)


def with_files(manifest: Manifest, files: tuple[FileInfo, ...]) -> Manifest:
    """The manifest with its list of files filled in."""
    return replace(manifest, files=files)

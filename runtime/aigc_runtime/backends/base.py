"""A back-end: how engines of one kind are opened, and what it takes to run them, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.session import Session
from aigc_runtime.device.findings import Preflight
from aigc_runtime.device.probe import Device
from aigc_runtime.errors import ConfigError
from aigc_runtime.system.processor import check_instruction_set

__all__ = ["Backend", "EngineFacts", "EngineFiles", "EngineProof", "NoBuild"]


@dataclass(frozen=True, kw_only=True)
class NoBuild:
    """What a manifest says of an engine that is the same for every device: nothing."""


@dataclass(frozen=True, kw_only=True)
class EngineProof:
    """How the export proved an engine.

    Attributes:
        parity: `engine`: the engine itself was run and compared with PyTorch; `graph`: the graph that it was built from
            was, on a CPU, and the engine itself was not run.
        proven_on: instruction sets of the processors on which the engine itself passed parity, keys of
            `processor.INSTRUCTION_SETS`; empty for one that does not run on processors, or was not run.
    """

    parity: Literal["engine", "graph"] = "engine"
    proven_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.proven_on:
            check_instruction_set(name)
        if len(set(self.proven_on)) < len(self.proven_on):
            raise ConfigError(f"proven_on names an instruction set twice: {', '.join(self.proven_on)}")
        if self.proven_on and self.parity != "engine":
            raise ConfigError(
                f"an engine that was not run is proven on {', '.join(self.proven_on)}",
                hint="proven_on belongs to engines that ran on a CPU",
            )


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What a bundle says about one of its engines.

    Attributes:
        program: name of the model.
        precision: of the bundle.
        build: of the back-end's own type.
        proof: how the export proved it.
        export_arguments: called as export_arguments(same_precision=..., without=options): what to append to the
            command that exports the same again; None where nobody knows.
    """

    program: str
    precision: str
    build: Any
    proof: EngineProof
    export_arguments: Callable[..., str] | None = None


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """One engine of an opened bundle, as a back-end opens it.

    Attributes:
        facts: what the bundle says about it.
        interface: that it must have.
        file: name of the file to open.
        sha256: of that file.
        folder: where the bundle's files lie, all of them hashed.
        read: gives a file's bytes, hashed.
    """

    facts: EngineFacts
    interface: Interface
    file: str
    sha256: str
    folder: str
    read: Callable[[str], bytes]


def _no_lines(_build: Any) -> tuple[tuple[str, str], ...]:
    return ()


def _yes(_build: Any) -> bool:
    return True


def _no(_build: Any) -> bool:
    return False


def _runs_anywhere(_facts: EngineFacts, _device: Device) -> Preflight:
    return Preflight(gpu=None, findings=())


def _alone(_build: Any) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Backend:
    """How engines of one kind are opened. What a back-end leaves out is that of an engine that any processor runs.

    Attributes:
        kind: of the engine, as in manifests.
        open: opens an engine; `threads` are those inside an operator, None takes all that the process may use. Raises
            EngineMissingError where a package is not installed, EngineError where the engine does not load.
        build: frozen dataclass of what a manifest says about how an engine was built; one without a default for every
            field must be in the manifest.
        packages: package -> distributions that bring it, any of them; those that a device is asked for.
        check: compares an engine with a device; nothing is opened.
        describe: how an engine was built, for people: a line each, as what it is about and what is said of it.
        on_cpu: whether the engine runs on the processor, in the memory of the process.
        computes_here: whether this processor's kernels give the engine's results. Where they do not, another engine
            over the same state stands in for it, if there is one.
        saves_time: whether the engine only saves time, so that the other one may stand in for it to save memory.
        state_place: where a session keeps carried state that sessions of this kind with an equal place can share; None
            where they cannot.
    """

    kind: str
    open: Callable[[EngineFiles, int | None], Session]
    build: type = NoBuild
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    check: Callable[[EngineFacts, Device], Preflight] = _runs_anywhere
    describe: Callable[[Any], tuple[tuple[str, str], ...]] = _no_lines
    on_cpu: Callable[[Any], bool] = _yes
    computes_here: Callable[[Any], bool] = _yes
    saves_time: Callable[[Any], bool] = _no
    state_place: Callable[[Any], str | None] = _alone

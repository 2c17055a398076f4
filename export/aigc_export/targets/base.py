"""A target: an engine on a device, and all that the line needs to know of it, as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_runtime.backends.base import EngineProof
from aigc_runtime.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    import onnx_ir as ir

    from aigc_calibration.formats import QdqFormat
    from aigc_calibration.onnx_file import SharedWeights
    from aigc_calibration.plan import QuantizationPlan
    from aigc_export.graphs.passes import Pass
    from aigc_models.program import Part, Program
    from aigc_runtime.core.interface import Interface
    from aigc_runtime.core.progress import Progress
    from aigc_runtime.core.session import Session
    from aigc_runtime.core.shape_profiles import ShapeProfile
    from aigc_runtime.core.tensors import Array
    from aigc_runtime.device.probe import Device

__all__ = [
    "BuildRequest",
    "BuiltEngine",
    "EngineUnderTest",
    "NoSettings",
    "Readiness",
    "Target",
    "check_precision",
    "settings_for",
]


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """The settings of a target that has none to choose."""


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What an engine is built from.

    Attributes:
        program: the model.
        part: the part of it whose graph it is.
        graph: to build, quantized or not.
        float_graph: that it was made from; the same where nothing was quantized.
        feeds: example inputs of the graph, to count its work on.
        precision: that the graph is in.
        settings: of the target's own type.
        plan: that the graph was quantized by; None for fp32.
        threads: of the session that parity compares; None takes every processor.
        shared: a file of weights that the engines of all parts may read; None for a program of one part.
    """

    program: Program
    part: Part
    graph: ir.Model
    float_graph: ir.Model
    feeds: Mapping[str, Array]
    precision: str
    settings: Any
    plan: QuantizationPlan | None = None
    threads: int | None = None
    shared: SharedWeights | None = None


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine's files, not yet in a bundle.

    Attributes:
        kind: of the engine, as in the manifest.
        file: name of the file to open.
        files: name -> path of every file.
        seconds: what building took.
        interface: of the engine, which may take fewer sizes than the model.
        build: how it was built, of its back-end's own type.
        proof: what parity runs: the engine itself, on which processor, or its graph.
    """

    kind: str
    file: str
    files: dict[str, Path]
    seconds: float
    interface: Interface
    build: Any = None
    proof: EngineProof = field(default_factory=EngineProof)

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.files.values())


@dataclass(frozen=True, kw_only=True)
class EngineUnderTest:
    """A built engine and the sessions that stand for it in parity.

    Attributes:
        engine: its files.
        candidate: session that takes the shapes that the engine takes.
        unbounded: session that takes all shapes that the model takes, for measuring quality on large batches.
        graph: that ONNX Runtime can run, for bisection.
        summary: what the build reports, for the stage's line.
        provenance: facts for the manifest.
    """

    engine: BuiltEngine
    candidate: Session
    unbounded: Session
    graph: ir.Model
    summary: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """Whether this machine can build for a target, and what is there or missing in words."""

    builds: bool
    summary: str


def _takes_all(_settings: Any, _precision: str, _opset: int | None) -> None:
    """Refuse nothing."""


def _unbounded(_program: Program, _part: Part, _settings: Any) -> None:
    """The engine takes every shape that the model takes."""


def _no_options(_settings: Any) -> tuple[str, ...]:
    """Nothing was chosen."""
    return ()


def _ready(_device: Device) -> Readiness:
    return Readiness(builds=True, summary="needs no more than is installed")


@dataclass(frozen=True, kw_only=True)
class Target:
    """An engine on a device. A target states what it is and does; what it leaves out is what most of them do.

    Attributes:
        name: as on the command line.
        summary: one line.
        precisions: what it can run; `auto` where its candidates can be run and timed here.
        passes: rewrites of the float graph, in order.
        format: in which it takes a quantized graph.
        build: builds the engine, writing its files to a folder. Raises AigcError where it cannot be built, or was
            built in another precision than was asked for.
        executed: the quantized sites that the engine really runs in few bits, read from the emitted graph and its
            plan; None where that is proven when the engine is built.
        opset: ONNX operator set that its graphs use.
        settings: frozen dataclass of the user's choices, each with a default.
        refused: precision that others run -> why this one does not, and what does.
        check: refuses settings, a precision or an opset (None: its own) before the work starts. Raises AigcError.
        bounds: ranges of shapes that the engine will take; None for all that the model takes.
        options: the options of the command line that give the settings.
        doctor: what this machine has and lacks to build for it.
        prefers_buffers: it decodes faster where the cache of a language model is in buffers.
        multiplies_rows: an engine for prompts multiplies whole rows of 8-bit codes, where weights have them.
        fixes_capacity: its engines take buffers of carried state of one size: one whose capacity is a dimension gets
            the largest.
    """

    name: str
    summary: str
    precisions: tuple[str, ...]
    passes: tuple[tuple[str, Pass], ...]
    format: QdqFormat
    build: Callable[[BuildRequest, Path, Progress | None], EngineUnderTest]
    executed: Callable[[ir.Model, QuantizationPlan], set[str] | None]
    opset: int = 20
    settings: type = NoSettings
    refused: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any, str, int | None], None] = _takes_all
    bounds: Callable[[Program, Part, Any], tuple[ShapeProfile, ...] | None] = _unbounded
    options: Callable[[Any], tuple[str, ...]] = _no_options
    doctor: Callable[[Device], Readiness] = _ready
    prefers_buffers: bool = False
    multiplies_rows: bool = False
    fixes_capacity: bool = False


def check_precision(target: Target, precision: str) -> None:
    """Check that a target runs a precision.

    Raises:
        ConfigError: another target does; says why this one does not.
        UnknownNameError: no target does; lists those of this one and the nearest.
    """
    if precision in target.precisions:
        return
    if precision in target.refused:
        raise ConfigError(
            f"target {target.name!r} does not run {precision}",
            hint=f"{target.refused[precision]}\nvalid here: {', '.join(target.precisions)}",
        )
    raise UnknownNameError(f"precision for target {target.name!r}", precision, target.precisions)


def settings_for(target: Target, given: Any) -> Any:
    """Make the settings of a target.

    Args:
        target: whose.
        given: an object of its type; fields by name; or None for the defaults.

    Raises:
        ConfigError: settings that the target does not have; says which it has.
    """
    if given is None:
        return target.settings()
    if isinstance(given, target.settings):
        return given
    known = [one.name for one in dataclasses.fields(target.settings)]
    names = list(given) if isinstance(given, Mapping) else [type(given).__name__]
    if isinstance(given, Mapping) and set(names) <= set(known):
        return target.settings(**given)
    unknown = next(name for name in names if name not in known)
    if not known:
        raise ConfigError(
            f"target {target.name!r} compiles nothing, so it takes no {unknown}",
            hint="leave it out, or choose a --target that compiles; `aigc-export models` lists them",
        )
    raise ConfigError(
        f"target {target.name!r} has no setting {unknown}", hint=f"leave it out; it has: {', '.join(known)}"
    )

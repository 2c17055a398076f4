"""How a manifest describes an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aigc_runtime.bundle.engine_build import EngineBuild
from aigc_runtime.bundle.providers import EngineProvider
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import MAIN_ENGINE
from aigc_runtime.core.tensors import DimSpec, StateSpec, TensorSpec
from aigc_runtime.errors import ConfigError
from aigc_runtime.system.processor import check_instruction_set

__all__ = ["ENGINE_KINDS", "MAIN_ENGINE", "EngineInfo", "EngineInterface"]

ENGINE_KINDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")
"""Values of `engine.kind`; `backends.ENGINES` opens each of them."""


@dataclass(frozen=True, kw_only=True)
class EngineInterface:
    """What an engine takes and gives; its carried state belongs to the bundle, where other engines may read it.

    Attributes:
        inputs: the tensors that a caller feeds.
        outputs: the tensors that a caller gets.
        dims: the named dynamic dimensions of the inputs and the state.
        state: key of the manifest's `state`; None for an engine without carried state.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[DimSpec, ...]
    state: str | None

    def bound(self, states: Mapping[str, tuple[StateSpec, ...]]) -> Interface:
        """The whole interface, its state looked up.

        Raises:
            ConfigError: no such state, or no session could run it.
        """
        if self.state is not None and self.state not in states:
            raise ConfigError(f"interface.state is {self.state!r}", hint=f"known: {', '.join(states) or '(none)'}")
        state = () if self.state is None else states[self.state]
        return Interface(inputs=self.inputs, outputs=self.outputs, dims=self.dims, state=state)


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """Which back-end opens which file.

    Attributes:
        kind: of the back-end.
        file: that it opens.
        interface: what it takes and gives.
        build: for an engine compiled for certain devices, which.
        provider: for a graph that something else than the CPU runs, what.
        proven_on: instruction sets of the processors on which the engine itself passed parity, keys of
            `processor.INSTRUCTION_SETS`; empty for one that does not run on processors, or was not run.
    """

    kind: str
    file: str
    interface: EngineInterface
    build: EngineBuild | None = None
    provider: EngineProvider | None = None
    proven_on: tuple[str, ...] = ()

    @property
    def runs_on_cpu(self) -> bool:
        """Whether it is a graph that this machine's processor runs."""
        return self.kind == "onnxruntime" and self.provider is None

    def __post_init__(self) -> None:
        if self.provider is not None and (self.kind != "onnxruntime" or self.build is not None):
            raise ConfigError(
                f"engine {self.kind!r} with provider {self.provider.name!r}",
                hint="only a graph of ONNX Runtime has one",
            )
        for name in self.proven_on:
            check_instruction_set(name)
        if len(set(self.proven_on)) < len(self.proven_on):
            raise ConfigError(f"proven_on names an instruction set twice: {', '.join(self.proven_on)}")
        if self.proven_on and (self.build is not None or self.provider is not None):
            raise ConfigError(
                f"an engine that no processor runs is proven on {', '.join(self.proven_on)}",
                hint="proven_on belongs to graphs that run on a CPU",
            )

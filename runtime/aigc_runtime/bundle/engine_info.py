"""How a manifest describes an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aigc_runtime.backends.base import Backend, EngineProof
from aigc_runtime.backends.table import get_backend
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import MAIN_ENGINE
from aigc_runtime.core.tensors import DimSpec, StateSpec, TensorSpec
from aigc_runtime.errors import ConfigError
from aigc_runtime.io.jsonable import from_json

__all__ = ["MAIN_ENGINE", "EngineInfo", "EngineInterface"]


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
        kind: of the engine, which tells its back-end.
        file: that it opens.
        interface: what it takes and gives.
        build: how it was built, of the back-end's own type; as plain JSON it is read strictly, and None takes the
            defaults of that type.
        proof: how the export proved it.
    """

    kind: str
    file: str
    interface: EngineInterface
    build: Any = None
    proof: EngineProof = field(default_factory=EngineProof)

    @property
    def backend(self) -> Backend:
        """How engines of its kind are opened."""
        return get_backend(self.kind)

    @property
    def runs_on_cpu(self) -> bool:
        """Whether this machine's processor runs it."""
        return self.backend.on_cpu(self.build)

    def __post_init__(self) -> None:
        object.__setattr__(self, "build", _build(self.backend, self.build))
        if self.proof.proven_on and not self.runs_on_cpu:
            raise ConfigError(
                f"an engine that no processor runs is proven on {', '.join(self.proof.proven_on)}",
                hint="proven_on belongs to engines that run on a CPU",
            )


def _build(backend: Backend, given: Any) -> Any:
    """What a manifest says about how an engine was built, in the back-end's own type."""
    if isinstance(given, backend.build):
        return given
    if given is None:
        try:
            return backend.build()
        except TypeError as err:
            raise ConfigError(
                f"the manifest does not say for which device its {backend.kind} engine was built",
                hint="the bundle is inconsistent: export it again",
            ) from err
    if not isinstance(given, dict):
        raise ConfigError(
            f"an engine of kind {backend.kind!r} has a build of type {type(given).__name__}",
            hint=f"it must be of type {backend.build.__name__}",
        )
    return from_json(backend.build, given, where="build", error=ConfigError)

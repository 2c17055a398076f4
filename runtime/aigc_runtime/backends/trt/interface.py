"""An engine's own inputs and outputs, and whether they are those that the manifest announces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aigc_runtime.backends.trt.build_info import EngineBuild
from aigc_runtime.backends.trt.types import HostType, host_type
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.sizes import Size, size_value
from aigc_runtime.errors import EngineError

__all__ = ["Port", "check_ports", "check_profiles", "read_ports"]

_AGAIN = "the bundle is inconsistent: export it again"


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input or output of an engine.

    Attributes:
        name: as the engine knows it.
        is_input: which of the two it is.
        type: its element type.
        on_host: whether the engine reads or writes it in host memory: it decides shapes.
        alias: for an output that the engine writes into one of its inputs, that input.
    """

    name: str
    is_input: bool
    type: HostType
    on_host: bool
    alias: str | None


def read_ports(module: Any, engine: Any) -> dict[str, Port]:
    """Name -> port, in the engine's order.

    Raises:
        EngineError: a type that this runtime cannot pass.
    """
    ports = {}
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
        aliased = None
        if not is_input and hasattr(engine, "get_aliased_input_tensor"):
            aliased = engine.get_aliased_input_tensor(name)
        ports[name] = Port(
            name=name,
            is_input=is_input,
            type=host_type(name, engine.get_tensor_dtype(name).name),
            on_host=engine.get_tensor_location(name) == module.TensorLocation.HOST,
            alias=aliased or None,
        )
    return ports


def check_ports(ports: Mapping[str, Port], interface: Interface) -> None:
    """Refuse an engine that is not the announced one.

    Raises:
        EngineError: names or element types differ, the engine writes into an input that it must not write into, or its
            buffers have no fixed size.
    """
    state = interface.state
    if interface.capacity_dim is not None:
        raise EngineError(
            f"the manifest announces buffers of {interface.capacity_dim!r} places, which TensorRT cannot enlarge",
            hint=_AGAIN,
        )
    wanted = (
        {s.name: s.dtype for s in interface.graph_inputs},
        {**{s.name: s.dtype for s in interface.outputs}, **{s.output: s.dtype for s in state}},
    )
    for kind, want in zip(("inputs", "outputs"), wanted, strict=True):
        have = {p.name: p.type.dtype for p in ports.values() if p.is_input == (kind == "inputs")}
        if have != want:
            raise EngineError(
                f"the engine's {kind} are {_listed(have)}, the manifest announces {_listed(want)}", hint=_AGAIN
            )
    carried = {s.output: s for s in state}
    kept = {s.input for s in state}
    for port in ports.values():
        spec = carried.get(port.name)
        if spec is not None and (ports[spec.input].type != port.type or ports[spec.input].on_host or port.on_host):
            raise EngineError(
                f"the engine takes {spec.input!r} in another form than it gives {port.name!r}", hint=_AGAIN
            )
        in_place = spec is not None and spec.behavior.in_place and port.alias == spec.input
        if port.alias is not None and not in_place and (spec is not None or port.alias in kept):
            raise EngineError(f"the engine writes {port.name!r} into {port.alias!r}", hint=_AGAIN)


def _listed(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({types[name]})" for name in sorted(types))


def check_profiles(engine: Any, build: EngineBuild, shapes: Mapping[str, Sequence[Size]]) -> None:
    """Refuse an engine whose ranges of shapes are not those of the manifest, in its order: they are chosen from there.

    Args:
        engine: the native engine.
        build: of the manifest.
        shapes: input -> sizes, named where they are dynamic.

    Raises:
        EngineError: another number of profiles, or another range.
    """
    if engine.num_optimization_profiles != len(build.profiles):
        raise EngineError(
            f"the engine has {engine.num_optimization_profiles} profiles, the manifest lists {len(build.profiles)}",
            hint=_AGAIN,
        )
    for index, profile in enumerate(build.profiles):
        for name, shape in shapes.items():
            if all(isinstance(size, int) for size in shape):
                continue
            low, _, high = (tuple(found) for found in engine.get_tensor_profile_shape(name, index))
            for axis, size in enumerate(shape):
                least, most = (size_value(size, profile.sizes(kind)) for kind in (0, 2))
                known = isinstance(size, str) and least is not None
                if known and (low[axis], high[axis]) != (least, most):
                    raise EngineError(
                        f"profile {profile.name!r} of the engine takes {low[axis]} to {high[axis]} on axis {axis} of "
                        f"{name!r}, the manifest says {size} {least} to {most}",
                        hint=_AGAIN,
                    )

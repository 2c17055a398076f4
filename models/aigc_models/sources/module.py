"""A user's own module as a part of a program: nothing is asked of it but example inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aigc_models.caller_state import callers_state
from aigc_models.program import Part, Program, QuantHints
from aigc_models.sources.arguments import ExampleInputs, read_inputs
from aigc_models.sources.declared import DeclaredSizes, Dims
from aigc_models.sources.nested import Slot, check_names, flatten, named_leaves, rebuild
from aigc_models.sources.sizes import check_other_sizes, trace
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.sizes import is_dim_name
from aigc_runtime.core.tensors import DTYPES, Array, StateSpec, TensorSpec
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.pipelines.tensors import Stage, TensorsSettings

__all__ = ["Dims", "make_part", "make_program"]

_REMEDIES = {
    torch.float64: "engines compute in float32: call .float() on it, and on the module",
    torch.bfloat16: "give it in float32: the precision of the engine is chosen at export",
}


class _Flat(nn.Module):
    """A module over flat tensors: the nested arguments are put together before it, its results taken apart after."""

    def __init__(self, model: nn.Module, arguments: Any, order: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.arguments = arguments
        self.order = tuple(order)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the module."""
        positional, named = rebuild(self.arguments, tensors)
        leaves, _ = flatten(self.model(*positional, **named), name="output", what="output")
        found = dict(_without_root(leaves))
        return tuple(found[name] for name in self.order)


def _without_root(leaves: Sequence[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """A mapping's outputs are called by their keys alone; those of a sequence, and a lone one, `output`."""
    return [
        (name.removeprefix("output_") if not name.removeprefix("output_")[:1].isdigit() else name, tensor)
        for name, tensor in leaves
    ]


@callers_state()
def make_part(
    module: nn.Module,
    example_inputs: Mapping[str, Any] | Sequence[Any] | Tensor | Array,
    *,
    dims: Dims | None = None,
    state: Sequence[StateSpec] = (),
    bounds: Mapping[str, tuple[int, int]] | None = None,
    hints: QuantHints | None = None,
    name: str = MAIN_ENGINE,
) -> Part:
    """Make a part of a module, by running it on an example.

    Args:
        module: in evaluation mode. Its `forward` may take and give tensors, and mappings, sequences and dataclasses of
            them, which are flattened: the keys of nested ones are joined by `_`.
        example_inputs: by the names of `forward`'s parameters, or in their order, tensors or numpy arrays. What is no
            tensor (None, a number, a text) is fixed: every engine has that value.
        dims: sizes that may vary; all others are those of the example. Dimension 0 is called `batch` where rows are
            independent of each other, as a module with `state` needs it.
        state: tensors that are carried from a call to the next; their inputs and outputs are named here only, and so
            are inputs that take the number of steps held.
        bounds: integer input -> (low, high): its values lie in [low, high). None: any.
        hints: how it is best quantized.
        name: of the part.

    Returns:
        The part. Inputs are called as the parameters are; a mapping's outputs by its keys, a lone output `output`,
        those of a sequence `output_0`, `output_1` and so on.

    Raises:
        ConfigError: a module in training mode or without values, an example that does not fit, a name twice.
        UnknownNameError: a name that the module does not have.
        CaptureError: a size that was declared to vary and does not.
    """
    _check_module(module)
    inputs = read_inputs(module, example_inputs)
    _check_tensors(inputs.tensors)
    outputs = _run(module, inputs)
    names = list(inputs.tensors)
    check_names(names, what="input")
    lengths, carried = _check_state(state, inputs.tensors, outputs)
    fed = [n for n in names if n not in lengths and n not in carried]
    given = [n for n in outputs if n not in {s.output for s in state}]
    if not fed or not given:
        raise ConfigError("a part needs an input and an output beside its carried state")
    check_names(list(outputs), what="output")
    if same := sorted(outputs.keys() & inputs.tensors.keys()):
        raise ConfigError(
            f"an input and an output are both called {same[0]!r}", hint="a graph needs two names: rename one of them"
        )
    declared = DeclaredSizes(inputs.tensors, dims or {}, state)
    ordered = [*fed, *lengths, *carried]
    flat = _Flat(module, _reordered(inputs, ordered), [*given, *(s.output for s in state)]).eval()
    example = {n: inputs.tensors[n] for n in ordered}
    shapes = {n: declared.shape(n) for n in ordered}
    check_other_sizes(lambda tensors: flat(*tensors), example, shapes, declared.dims)
    traced = trace(flat, list(example.values()), list(shapes.values()), declared.dims, given=declared.given)
    low_high = _bounds(bounds or {}, inputs.tensors)
    return Part(
        name=name,
        module=flat,
        interface=Interface(
            inputs=tuple(
                TensorSpec(
                    name=n,
                    dtype=_dtype(inputs.tensors[n]),
                    shape=declared.shape(n),
                    low=low_high.get(n, (None, None))[0],
                    high=low_high.get(n, (None, None))[1],
                )
                for n in fed
            ),
            outputs=tuple(
                TensorSpec(name=n, dtype=_dtype(outputs[n]), shape=shape)
                for n, shape in zip(given, traced.shapes, strict=False)
            ),
            dims=tuple(traced.dims.values()),
            state=tuple(state),
        ),
        examples={n: inputs.tensors[n].numpy() for n in fed},
        hints=QuantHints() if hints is None else hints,
        notes=(*_fixed_notes(inputs), *traced.notes),
    )


def _fixed_notes(inputs: ExampleInputs) -> list[str]:
    positional, named = inputs.arguments
    return [
        f"input {name!r} is fixed: {value!r:.100}"
        for name, value in (*named_leaves(list(positional)), *named_leaves(named))
    ]


def _check_module(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise ConfigError(f"the module is a {type(module).__name__}", hint="give a torch.nn.Module")
    training = next((name or "the module" for name, m in module.named_modules() if m.training), None)
    if training is not None:
        raise ConfigError(f"{training} is in training mode", hint="call .eval() on the module")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ConfigError(
                f"tensor {name!r} of the module is on the meta device, without numbers", hint="load its weights first"
            )
        if tensor.device.type != "cpu":
            raise ConfigError(f"tensor {name!r} of the module is on {tensor.device}", hint="call .cpu() on the module")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ConfigError(
                f"tensor {name!r} of the module is {str(tensor.dtype)[6:]}",
                hint="call .float() on the module: the precision of the engine is chosen at export",
            )


def _check_tensors(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        kind = str(tensor.dtype)[6:]
        if kind not in DTYPES:
            raise ConfigError(
                f"example input {name!r} is {kind}",
                hint=_REMEDIES.get(tensor.dtype, f"an engine takes {', '.join(DTYPES)}"),
            )
        if tensor.ndim == 0:
            raise ConfigError(
                f"example input {name!r} has no dimensions",
                hint="give it one: a tensor of shape [1], or fix it as a number",
            )
        if not tensor.numel():
            raise ConfigError(
                f"example input {name!r} has shape {list(tensor.shape)}", hint="give one with numbers in it"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ConfigError(f"example input {name!r} holds NaN or infinity", hint="give finite numbers")


def _run(module: nn.Module, inputs: ExampleInputs) -> dict[str, Tensor]:
    """The module's outputs on the example, by name."""
    positional, named = rebuild(inputs.arguments, [t.clone() for t in inputs.tensors.values()])
    try:
        with torch.no_grad():
            result = module(*positional, **named)
    except Exception as err:
        raise ConfigError(
            f"{type(module).__name__} cannot run on the example inputs: {type(err).__name__}: {err}",
            hint="; ".join(f"{n}: {str(t.dtype)[6:]} {list(t.shape)}" for n, t in inputs.tensors.items()),
        ) from err
    leaves, tree = flatten(result, name="output", what="output")
    if fixed := next(named_leaves(tree, "output"), None):
        raise ConfigError(
            f"{type(module).__name__} gives {fixed[0]!r}, which is a {type(fixed[1]).__name__} and no tensor",
            hint="let forward return tensors, or wrap the module in one that does",
        )
    if not leaves:
        raise ConfigError(f"{type(module).__name__} gives no tensor", hint="let forward return at least one")
    named_outputs = _without_root(leaves)
    check_names([name for name, _ in named_outputs], what="output")
    for name, tensor in named_outputs:
        if str(tensor.dtype)[6:] not in DTYPES:
            raise ConfigError(
                f"output {name!r} is {str(tensor.dtype)[6:]}", hint=f"an engine gives {', '.join(DTYPES)}: convert it"
            )
    return dict(named_outputs)


def _check_state(
    state: Sequence[StateSpec], tensors: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the inputs that take lengths, and of those that take carried tensors."""
    for spec in state:
        if spec.input not in tensors:
            raise UnknownNameError("input of a state", spec.input, tensors)
        if spec.output not in outputs:
            raise UnknownNameError("output of a state", spec.output, outputs)
        if _dtype(tensors[spec.input]) != spec.dtype or tensors[spec.input].ndim != len(spec.shape):
            found = tensors[spec.input]
            raise ConfigError(
                f"state {spec.input!r} is {_dtype(found)} {list(found.shape)} in the example, "
                f"its StateSpec says {spec.dtype} {list(spec.shape)}"
            )
    lengths = tuple(dict.fromkeys(spec.length_input for spec in state if spec.length_input is not None))
    for name in lengths:
        if name not in tensors:
            raise UnknownNameError("length_input of a state", name, tensors)
        if tensors[name].dtype != torch.int64 or tensors[name].shape != (1,):
            raise ConfigError(
                f"input {name!r}, which takes the number of steps held, is {_dtype(tensors[name])} "
                f"{list(tensors[name].shape)} in the example",
                hint="it must be int64 of shape [1]",
            )
    return lengths, tuple(spec.input for spec in state)


def _reordered(inputs: ExampleInputs, order: Sequence[str]) -> Any:
    """The arguments with their slots renumbered for tensors in another order."""
    names = list(inputs.tensors)
    return rebuild(inputs.arguments, [Slot(order.index(name)) for name in names])


def _bounds(bounds: Mapping[str, tuple[int, int]], tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    for name, (low, high) in bounds.items():
        if name not in tensors:
            raise UnknownNameError("input in bounds", name, tensors)
        found = tensors[name]
        if found.is_floating_point() or found.dtype == torch.bool:
            raise ConfigError(f"bounds of {name!r}, which is {_dtype(found)}", hint="only integers have bounds")
        if int(found.min()) < low or int(found.max()) >= high:
            raise ConfigError(
                f"example input {name!r} holds {int(found.min())} to {int(found.max())}, bounds are [{low}, {high})"
            )
    return dict(bounds)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype)[6:]


def make_program(
    module: nn.Module | Sequence[Part],
    example_inputs: Mapping[str, Any] | Sequence[Any] | Tensor | Array | None = None,
    *,
    dims: Dims | None = None,
    state: Sequence[StateSpec] = (),
    bounds: Mapping[str, tuple[int, int]] | None = None,
    hints: QuantHints | None = None,
    kind: str = "tensors",
    settings: Any = None,
    engines: Mapping[str, str] | None = None,
    name: str | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> Program:
    """Make a program of a module of your own, or of several parts.

    Args:
        module: see `make_part`, which `example_inputs`, `dims`, `state`, `bounds` and `hints` go to; or parts that are
            made already.
        example_inputs: of the module; None with parts.
        dims: see `make_part`.
        state: see `make_part`.
        bounds: see `make_part`.
        hints: see `make_part`.
        kind: of the pipeline that drives it.
        settings: of the pipeline; None: the parts run one after the other, each once, wired by the names of tensors.
        engines: role in the pipeline -> name of the part; None: each part has the role of its name.
        name: of the program; None: the class of the module, in lower case.
        model_config: kept in the bundle.

    Raises:
        ConfigError: see `make_part`; parts beside example inputs; a kind whose settings are missing.
    """
    if isinstance(module, (nn.Module, str)) or not isinstance(module, Sequence):
        if example_inputs is None:
            raise ConfigError("a module without example inputs", hint="give example_inputs: one real input of each")
        parts = [make_part(module, example_inputs, dims=dims, state=state, bounds=bounds, hints=hints)]
        named = name or type(module).__name__.lower()
    else:
        parts = list(module)
        others = {"example_inputs": example_inputs, "dims": dims, "state": state, "bounds": bounds, "hints": hints}
        if given := [n for n, value in others.items() if value is not None and value != ()]:
            raise ConfigError(f"{given[0]} beside parts, which have their own", hint="give it to part(...)")
        check_names([part.name for part in parts], what="part")
        named = name or "program"
    return Program(
        name=named,
        kind=kind,
        parts={part.name: part for part in parts},
        settings=_in_a_row(kind, parts) if settings is None else settings,
        engines={part.name: part.name for part in parts} if engines is None else dict(engines),
        model_config=dict(model_config or {}),
    )


def _in_a_row(kind: str, parts: Sequence[Part]) -> TensorsSettings:
    if kind != "tensors":
        raise ConfigError(f"a program of kind {kind!r} without settings", hint="give the settings of its pipeline")
    sizes: dict[str, int] = {}
    for part in parts:
        for tensor in part.interface.inputs:
            for axis, size in enumerate(tensor.shape):
                if isinstance(size, str) and is_dim_name(size) and tensor.name in part.examples:
                    sizes.setdefault(size, int(part.examples[tensor.name].shape[axis]))
    return TensorsSettings(stages=tuple(Stage(role=part.name) for part in parts), typical_sizes=sizes)

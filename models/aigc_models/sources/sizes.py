"""The sizes that a module takes and gives, found by tracing it once with PyTorch's symbolic shapes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from aigc_models.sources.user_code import SIZE_BY_NUMBERS, capture_advice
from aigc_runtime.core.sizes import Shape, parse_size, shape_value
from aigc_runtime.core.tensors import DimSpec
from aigc_runtime.errors import ConfigError

__all__ = ["Traced", "axis_names", "check_other_sizes", "dynamic_shapes", "trace"]

_ARTIFICIAL_MIN = 2
"""PyTorch traces sizes of 0 and 1 apart, and calls every free size at least 2."""
_LARGEST_MULTIPLE = 1024


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What tracing finds out.

    Attributes:
        shapes: of the outputs; sizes that vary are expressions of the named dimensions.
        dims: the named dimensions, in the ranges that the module takes.
        notes: for the user: what was narrowed.
    """

    shapes: tuple[Shape, ...]
    dims: Mapping[str, DimSpec]
    notes: tuple[str, ...] = ()


def trace(
    module: nn.Module,
    example: Sequence[Tensor],
    shapes: Sequence[Shape],
    dims: Mapping[str, DimSpec],
    *,
    given: frozenset[str] = frozenset(),
) -> Traced:
    """Trace a module that takes flat tensors and gives a tuple.

    Args:
        module: in evaluation mode.
        example: its arguments.
        shapes: of the arguments: numbers, and names of `dims`.
        dims: what may vary.
        given: names of dimensions whose ranges the user stated, which are not narrowed.

    Raises:
        ConfigError: the module cannot be traced, a size that was declared to vary and does not, or a size of an output
            that has no expression.
    """
    if not dims:
        with torch.no_grad():
            return Traced(shapes=tuple(tuple(t.shape) for t in module(*example)), dims={})
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                module,
                _told_apart(example, shapes, dims),
                dynamic_shapes=(tuple(dynamic_shapes(shapes, dims)),),
                strict=False,
            )
    except Exception as err:
        message, hint = capture_advice(err, axis_names(shapes))
        raise ConfigError(f"{_name(module)}: {message}", hint=hint) from err
    users = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"}
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in users]
    symbols: dict[Any, tuple[str, int]] = {}
    for node, shape in zip(nodes, shapes, strict=True):
        for size, name in zip(node.meta["val"].shape, shape, strict=True):
            if isinstance(name, str) and not isinstance(size, int):
                _bind(symbols, size.node.expr, name, dims.get(name))
    narrowed, notes = _narrowed(program, symbols, dims, given)
    output = next(n for n in program.graph.nodes if n.op == "output")
    return Traced(
        shapes=tuple(_shape(n.meta["val"].shape, symbols) for n in output.args[0]),
        dims=narrowed,
        notes=notes,
    )


def _told_apart(example: Sequence[Tensor], shapes: Sequence[Shape], dims: Mapping[str, DimSpec]) -> tuple[Tensor, ...]:
    """Make arguments of which no free size is 0 or 1: PyTorch takes those to be fixed."""
    sizes = _named_sizes(zip(example, shapes, strict=True))
    if not dims.keys() <= sizes.keys():
        return tuple(example)
    sizes |= {name: dim.nearest(max(sizes[name], _ARTIFICIAL_MIN)) for name, dim in dims.items()}
    return tuple(_resized(t, shape_value(shape, sizes)) for t, shape in zip(example, shapes, strict=True))


def _named_sizes(tensors: Iterable[tuple[Tensor, Shape]]) -> dict[str, int]:
    return {
        size: tensor.shape[axis]
        for tensor, shape in tensors
        for axis, size in enumerate(shape)
        if isinstance(size, str)
    }


def _shape(sizes: Sequence[Any], symbols: Mapping[Any, tuple[str, int]]) -> Shape:
    return tuple(
        size if isinstance(size, int) else parse_size(_expression(size.node.expr, symbols)).text for size in sizes
    )


def dynamic_shapes(shapes: Sequence[Shape], dims: Mapping[str, DimSpec]) -> list[dict[int, Any]]:
    """PyTorch's description of the free sizes of positional arguments, their ranges left to be found."""
    shared = {name: _torch_dim(dim) for name, dim in dims.items()}
    # A sum has no name of its own in PyTorch, which finds out what it is.
    return [
        {axis: shared.get(size, torch.export.Dim.AUTO) for axis, size in enumerate(shape) if isinstance(size, str)}
        for shape in shapes
    ]


def _torch_dim(dim: DimSpec) -> Any:
    if dim.multiple_of > 1:
        top = None if dim.max is None else dim.max // dim.multiple_of
        return dim.multiple_of * torch.export.Dim(f"{dim.name}_units", min=max(1, dim.min // dim.multiple_of), max=top)
    return torch.export.Dim.DYNAMIC


def axis_names(shapes: Sequence[Shape]) -> dict[tuple[int, int], str]:
    """Map (number of the argument, axis) to the name of its size, for those that have one."""
    return {
        (i, axis): size for i, shape in enumerate(shapes) for axis, size in enumerate(shape) if isinstance(size, str)
    }


def _name(module: nn.Module) -> str:
    return type(getattr(module, "model", module)).__name__


def _bind(symbols: dict[Any, tuple[str, int]], expr: Any, name: str, dim: DimSpec | None) -> None:
    """Note which name, or which sum of names, a symbol stands for, in units of how much."""
    free = list(expr.free_symbols)
    if len(free) == 1 and dim is not None:
        symbols.setdefault(free[0], (name, dim.multiple_of if expr != free[0] else 1))
    elif expr.is_Symbol:
        symbols.setdefault(expr, (f"({name})", 1))


def _narrowed(
    program: Any, symbols: Mapping[Any, tuple[str, int]], dims: Mapping[str, DimSpec], given: frozenset[str]
) -> tuple[dict[str, DimSpec], tuple[str, ...]]:
    """Cut the ranges down to what the module takes."""
    found, notes = dict(dims), []
    for symbol, span in program.range_constraints.items():
        name, unit = symbols.get(symbol, ("", 1))
        if name not in dims:
            continue
        dim = dims[name]
        low = int(span.lower) * unit if span.lower > _ARTIFICIAL_MIN else dim.min
        high = int(span.upper) * unit if span.upper.is_Integer and int(span.upper) < 2**31 - 1 else dim.max
        low, top = max(low, dim.min), high if dim.max is None or (high is not None and high < dim.max) else dim.max
        if (low, top) == (dim.min, dim.max):
            continue
        taken = f"from {low}" + ("" if top is None else f" to {top}")
        if name in given:
            raise ConfigError(
                f"dimension {name!r} is declared from {dim.min}"
                + ("" if dim.max is None else f" to {dim.max}")
                + f", and the module takes it {taken} alone",
                hint="its forward decides by that size: declare the range that it takes",
            )
        found[name] = replace(dim, min=low, max=top)
        notes.append(f"dimension {name!r} goes {taken}: the module takes no others")
    return found, tuple(notes)


def _expression(expr: Any, symbols: Mapping[Any, tuple[str, int]]) -> str:
    """Write a symbolic size in the manifest's words: names, integers, +, -, *, //."""
    if expr.is_Integer:
        return str(int(expr))
    if expr in symbols:
        name, unit = symbols[expr]
        return name if unit == 1 else f"({name}//{unit})"
    parts = list(expr.args)
    if expr.is_Add:
        numbers = sum(int(part) for part in parts if part.is_Integer)
        names = "+".join(_expression(part, symbols) for part in parts if not part.is_Integer)
        return f"({names}{numbers:+d})" if numbers else f"({names})"
    if expr.is_Mul:
        return _product(parts, symbols)
    if type(expr).__name__ in ("FloorDiv", "CleanDiv"):
        return f"({_expression(parts[0], symbols)}//{_expression(parts[1], symbols)})"
    if expr.is_Pow and parts[1].is_Integer and 1 < int(parts[1]) < 5:
        return "(" + "*".join([_expression(parts[0], symbols)] * int(parts[1])) + ")"
    if free_unbacked_symbols(expr):
        raise ConfigError("a size of an output depends on the numbers in a tensor", hint=SIZE_BY_NUMBERS)
    raise ConfigError(
        f"a size of an output is {expr}, which a manifest cannot say",
        hint="let that size be fixed, or compute it from sums, products and whole divisions of the inputs' sizes",
    )


def _product(parts: Sequence[Any], symbols: Mapping[Any, tuple[str, int]]) -> str:
    """`16*s` where s is height/8 is `2*height`."""
    factor, rest = 1, []
    for part in parts:
        if part.is_Integer:
            factor *= int(part)
        else:
            rest.append(part)
    texts = []
    for part in rest:
        name, unit = symbols.get(part, ("", 1))
        if unit > 1 and factor % unit == 0:
            factor //= unit
            texts.append(name)
        else:
            texts.append(_expression(part, symbols))
    if factor != 1 or not texts:
        texts.insert(0, str(factor))
    return texts[0] if len(texts) == 1 else "(" + "*".join(texts) + ")"


def check_other_sizes(
    run: Callable[[Sequence[Tensor]], Any],
    example: Mapping[str, Tensor],
    shapes: Mapping[str, Shape],
    dims: Mapping[str, DimSpec],
) -> None:
    """Run a module at another size of each dimension: a declaration that is not true is told before the work.

    Args:
        run: calls the module on tensors in the order of `example`.
        example: input -> tensor.
        shapes: input -> its shape with names.
        dims: what may vary.

    Raises:
        ConfigError: names the dimension, and what it may be a multiple of.
    """
    sizes = _named_sizes((tensor, shapes[name]) for name, tensor in example.items())
    for name, dim in dims.items():
        size = sizes[name]
        other = dim.nearest(size + dim.multiple_of)
        if other == size:
            other = dim.nearest(max(dim.min, size - dim.multiple_of))
        failure = _failure(run, example, shapes, {**sizes, name: other})
        if failure is None:
            continue
        works = next(
            (m for m in _multiples(size, dim) if _failure(run, example, shapes, {**sizes, name: size + m}) is None),
            None,
        )
        raise ConfigError(
            f"dimension {name!r} is declared to vary, and the module fails where it is {other}: {failure}",
            hint=f"declare DimSpec(name={name!r}, multiple_of={works}), which works"
            if works
            else f"leave {name!r} out of dims: then it is {size} always",
        )


def _multiples(size: int, dim: DimSpec) -> Iterator[int]:
    multiple = 2
    while multiple <= _LARGEST_MULTIPLE:
        if size % multiple == 0 and (dim.max is None or size + multiple <= dim.max):
            yield multiple
        multiple *= 2


def _failure(
    run: Callable[[Sequence[Tensor]], Any],
    example: Mapping[str, Tensor],
    shapes: Mapping[str, Shape],
    sizes: Mapping[str, int],
) -> str | None:
    resized = [_resized(tensor, shape_value(shapes[name], sizes)) for name, tensor in example.items()]
    try:
        with torch.no_grad():
            run(resized)
    except Exception as err:  # noqa: BLE001 - whatever the user's code raises
        return f"{type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}"
    return None


def _resized(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Repeat or cut a tensor along the axes whose sizes differ."""
    for axis, size in enumerate(shape):
        if size != tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
    return tensor.contiguous()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence PyTorch's own words on a failure: it is told once, by an exception."""
    names = ("torch", "torch.export", "torch.fx.experimental.symbolic_shapes", "torch.onnx")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

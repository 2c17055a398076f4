"""Trace one of many equal blocks, and repeat what was traced: tracing costs as much as for one, repeating little.

PyTorch traces a module operator by operator with symbolic shapes, several times over, which takes about a second for
each layer of a Transformer. Blocks are equal where nothing but their weights and their arguments differ:

    blocks:          b_0(x, ...)       b_1(x, ...)       b_2(x, ...)
    traced:          enter, b_0, leave    stand-in          stand-in
    repeated:        b_0's nodes       b_0's nodes       b_0's nodes
                                       with b_1's        with b_2's weights

The nodes of the first block are those between two markers. Every other block is an opaque operator while PyTorch
traces, whose results have the shapes of the first block's; then the nodes take its place, and read its arguments and
weights.

Two blocks are equal if their modules have the same classes, attributes, and shapes of weights, and if they are called
with tensors of the same shapes and types, equal numbers, and None in the same places.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

from aigc_export.graphs.block_nodes import ENTER, LEAVE, STAND_IN, NotRepeatableError, marker, repeat_nodes
from aigc_export.graphs.equal_blocks import find_equal_blocks, is_plain
from aigc_models.program import Part
from aigc_models.torch_session import TorchSession
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

__all__ = ["computes_the_same", "traced_once"]

SAME_DB = 90.0
"""The nodes are those that PyTorch would have traced: they give the same numbers, or those of another order of
additions where an operator was decomposed."""


@dataclass(frozen=True, kw_only=True)
class _First:
    """The traced block of a kind.

    Attributes:
        kind: its structure, and what it was called with.
        path: of the module.
        tensors: that it was called with.
        results: what it gave, in a row; tensors as the marker behind it gives them.
        layout: how they are arranged.
    """

    kind: Any
    path: str
    tensors: list[Tensor]
    results: list[Any]
    layout: Any


@dataclass(frozen=True, kw_only=True)
class _Trace:
    """What was called while PyTorch traced; markers name both by their places.

    Attributes:
        firsts: the block that was traced, for each kind.
        stand_ins: paths of the others, in the order of their calls.
    """

    firsts: list[_First] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)

    def clear(self) -> None:
        """Begin anew: PyTorch calls the whole module again."""
        self.firsts.clear()
        self.stand_ins.clear()


@contextlib.contextmanager
def traced_once(module: nn.Module) -> Iterator[bool]:
    """Let PyTorch trace one of every kind of equal blocks, and repeat it where it decomposes the program.

    While this is entered, `ExportedProgram.run_decompositions` gives the whole program, with the conversions of types
    that PyTorch's exporter would walk all of it to insert (4 of 12 seconds for 30 layers). Yields whether the module
    has such blocks; where it has none, nothing is changed.
    """
    from torch.export import ExportedProgram
    from torch.onnx._internal.exporter import _fx_passes

    blocks = find_equal_blocks(module)
    if not blocks:
        yield False
        return
    trace = _Trace()
    decompose = ExportedProgram.run_decompositions

    promote = _fx_passes.insert_type_promotion_nodes
    promoted: list[GraphModule] = []

    def run_decompositions(program: ExportedProgram, *args: Any, **kwargs: Any) -> ExportedProgram:
        whole = decompose(program, *args, **kwargs)
        promote(whole.graph_module)
        promoted.append(whole.graph_module)
        return repeat_nodes(whole, [first.path for first in trace.firsts], trace.stand_ins)

    def promote_once(module: GraphModule) -> None:
        if module not in promoted:
            promote(module)

    with contextlib.ExitStack() as stack:
        hook = module.register_forward_pre_hook(lambda *_: trace.clear())
        stack.callback(hook.remove)
        for path, (block, number) in blocks.items():
            stack.enter_context(_replaced(block, "forward", _stand_in(block.forward, path, number, trace)))
        stack.enter_context(_replaced(ExportedProgram, "run_decompositions", run_decompositions))
        stack.enter_context(_replaced(_fx_passes, "insert_type_promotion_nodes", promote_once))
        yield True


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute for a while; afterwards an object that had it of its class has it of its class again."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _stand_in(forward: Callable[..., Any], path: str, number: int, trace: _Trace) -> Callable[..., Any]:
    """Make the forward of a block: its own between markers for the first of a kind, for others an operator."""
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten

    mark = marker()

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        leaves, layout = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        kind = (number, layout, [_described(leaf) for leaf in leaves])
        if None in kind[2] or not tensors:
            return forward(*args, **kwargs)
        place = next((i for i, first in enumerate(trace.firsts) if first.kind == kind), None)
        if place is not None:
            first = trace.firsts[place]
            _unify(tensors, first.tensors)
            like = [one for one in first.results if isinstance(one, torch.Tensor)]
            made = mark(tensors, like, f"{STAND_IN} {place} {len(trace.stand_ins)}")
            trace.stand_ins.append(path)
            return tree_unflatten(_filled(first.results, made), first.layout)
        place = len(trace.firsts)
        own = _filled(leaves, mark(tensors, tensors, f"{ENTER} {place}"))
        own_args, own_kwargs = tree_unflatten(own, layout)
        results, results_layout = tree_flatten(forward(*own_args, **own_kwargs))
        given = [one for one in results if isinstance(one, torch.Tensor)]
        if not given or any(_described(one) is None for one in results):
            raise NotRepeatableError(f"{path} gives what no tensor holds")
        results = _filled(results, mark(given, given, f"{LEAVE} {place}"))
        trace.firsts.append(_First(kind=kind, path=path, tensors=tensors, results=results, layout=results_layout))
        return tree_unflatten(results, results_layout)

    return run


def _filled(leaves: list[Any], tensors: Sequence[Tensor]) -> list[Any]:
    """Put tensors in the places of tensors."""
    import torch

    given = iter(tensors)
    return [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def _described(leaf: object) -> tuple[Any, ...] | None:
    """What two calls must have in common, in a place of their arguments; None for what cannot be compared."""
    import torch

    if isinstance(leaf, torch.Tensor):
        sizes = tuple(n if isinstance(n, int) else "dynamic" for n in leaf.shape)
        return (leaf.dtype, leaf.device.type, leaf.layout, sizes)
    if isinstance(leaf, torch.SymInt):
        return (torch.SymInt, str(leaf))
    return (type(leaf), leaf) if is_plain(leaf) else None


def _unify(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Tell PyTorch that the sizes are the same, as tracing the block would; where they are not, it raises."""
    import torch

    for one, other in zip(tensors, others, strict=True):
        for size, wanted in zip(one.shape, other.shape, strict=True):
            if str(size) != str(wanted):
                torch._check(size == wanted)  # type: ignore[no-untyped-call]


def computes_the_same(program: ExportedProgram, part: Part, feeds: Mapping[str, Array]) -> bool:
    """Run a program, and check that it gives what the module gives."""
    import torch
    from torch.export.graph_signature import InputKind

    user = iter(torch.from_numpy(feeds[tensor.name]) for tensor in part.interface.graph_inputs)
    held = {**program.constants, **program.state_dict}
    arguments = [
        next(user) if spec.kind == InputKind.USER_INPUT else held[str(spec.target)]
        for spec in program.graph_signature.input_specs
    ]
    with torch.inference_mode():
        results = torch.fx.Interpreter(program.graph_module).run(*arguments)
    wanted = TorchSession(part).call(feeds)
    errors = [compare_arrays(a, b.numpy()) for a, b in zip(wanted.values(), results, strict=True)]
    return all(not error.problem and error.sqnr_db >= SAME_DB for error in errors)

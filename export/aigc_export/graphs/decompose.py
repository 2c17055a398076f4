"""Decompose the few operators of an exported program that have to be, and leave the others as they were traced.

PyTorch's exporter runs the whole program again to decompose some of its operators, which takes longer than to trace it:

    traced:       linear -> dropout -> unflatten -> softmax
    decomposed:   linear -> clone   -> view      -> softmax

Here each of those operators is traced by itself, with what is known of its arguments, and its nodes take its place. A
program that changes a tensor in place, or holds programs of its own (`cond`, `while_loop`), is left to PyTorch.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aigc_runtime.system.interrupts import interrupted_by

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

__all__ = ["decompose", "decomposed_in_place"]

_LOG = logging.getLogger(__name__)
_PLACE = ("nn_module_stack", "stack_trace", "torch_fn", "seq_nr")
"""Metadata that says which line of the model a node comes from."""

Table = Mapping[Any, Callable[..., Any]]


class _WholeError(Exception):
    """A program that has to be decomposed as a whole."""


@contextlib.contextmanager
def decomposed_in_place() -> Iterator[None]:
    """Let PyTorch's exporter decompose, and convert types, one operator after the other in the traced program."""
    from torch.export import ExportedProgram

    try:
        from torch.onnx._internal.fx.passes import type_promotion

        promoting: Any = type_promotion._TypePromotionInterpreter
        rule_of, run_each, _ = type_promotion.get_type_promotion_rule, promoting.run_node, promoting._maybe_promote_node
    except (ImportError, AttributeError) as err:  # another PyTorch has its own way of it, which only takes longer
        _LOG.debug("operators are not decomposed by themselves: %s", err)
        yield
        return
    whole: Callable[..., ExportedProgram] = ExportedProgram.run_decompositions

    def run_decompositions(program: ExportedProgram, table: Table | None = None, **options: Any) -> ExportedProgram:
        if table is not None and not options and decompose(program, table):
            return program
        return whole(program, table, **options)

    def convert(self: Any, node: Node) -> Any:
        """Insert conversions in front of a node; what it computes is known, and is not computed again."""
        if node.op != "call_function" or "val" not in node.meta:
            return run_each(self, node)
        with self._set_current_node(node):
            if rule := rule_of(node, self.type_promotion_table):
                self._maybe_promote_node(node, rule)
        return node.meta["val"]

    ExportedProgram.run_decompositions = run_decompositions  # type: ignore[method-assign]
    promoting.run_node = convert
    try:
        yield
    finally:
        ExportedProgram.run_decompositions = whole  # type: ignore[method-assign]
        promoting.run_node = run_each


def decompose(program: ExportedProgram, table: Table) -> bool:
    """Decompose the operators of the table, and those that stand for others, in place.

    Returns:
        False where PyTorch has to decompose the program as a whole. It computes the same in any case.
    """
    try:
        _decompose_each(program, table)
    except Exception as err:  # PyTorch decomposes the rest, or says what is wrong with it
        if interrupted_by(err):
            raise
        _LOG.debug("operators are not decomposed by themselves: %s: %s", type(err).__name__, err)
        program.graph_module.recompile()  # some may have been, already
        return False
    program.graph_module.graph.lint()
    program.graph_module.recompile()
    return True


def _decompose_each(program: ExportedProgram, table: Table) -> None:
    import torch
    from torch._dispatch.python import enable_python_dispatcher
    from torch.export.exported_program import (
        _override_composite_implicit_decomp,
        _split_decomp_table_to_cia_and_python_decomp,
    )

    composite, plain = _split_decomp_table_to_cia_and_python_decomp(dict(table))
    nodes = list(program.graph_module.graph.nodes)
    _check_plain(nodes)
    modes = {id(value.fake_mode): value.fake_mode for value in map(_value, nodes) if hasattr(value, "fake_mode")}
    if len(modes) != 1:
        raise _WholeError(f"{len(modes)} modes of tracing")
    sizes: dict[Any, Node] = {}
    with (
        next(iter(modes.values())),
        torch.no_grad(),
        enable_python_dispatcher(),
        _override_composite_implicit_decomp(composite),
    ):
        for node in nodes:
            new = [node]
            if node.op == "call_function" and _stands_for_others(node.target, composite, plain):
                arguments = list(dict.fromkeys([*sizes.values(), *node.all_input_nodes]))
                new, now = _copy_before(node, arguments, _trace(node, arguments, plain))
                _read_instead(program, node, now, new)
            for one in new:
                if isinstance(_value(one), torch.SymInt):
                    sizes.setdefault(_value(one).node.expr, one)


def _value(node: Node) -> Any:
    """What is known of a node's value: its type and sizes."""
    return node.meta.get("val")


def _check_plain(nodes: Iterable[Node]) -> None:
    """Raise _WholeError where an operator changes its argument or runs a program."""
    import torch

    for node in nodes:
        if node.op not in {"placeholder", "call_function", "output"}:
            raise _WholeError(f"{node.name} holds a program or a constant")
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise _WholeError(f"{node.name} runs a program")
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            raise _WholeError(f"{node.name} changes its argument")


def _stands_for_others(target: Any, composite: Table, plain: Table) -> bool:
    """Check whether PyTorch would replace an operator: by the table, or because its kernel only calls others.

    Of the latter it keeps some that it has put into the table itself; sizes are no tensors, and stay.
    """
    import torch
    from torch._export.utils import _is_cia_op, _special_op_to_preserve_cia
    from torch._subclasses.functional_tensor import FunctionalTensor

    if not isinstance(target, torch._ops.OpOverload) or target in FunctionalTensor.metadata_fns:
        return False
    if target in composite:
        return composite[target] is not _special_op_to_preserve_cia
    return target in plain or _is_cia_op(target)


def _trace(node: Node, arguments: Sequence[Node], plain: Table) -> GraphModule:
    """Trace one operator; the placeholders are the arguments in their order."""
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.node import map_arg

    def run(*values: Any) -> Any:
        given = dict(zip(arguments, values, strict=True))
        args, kwargs = map_arg((node.args, dict(node.kwargs)), given.__getitem__)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    body = make_fx(run, decomposition_table=dict(plain))(*map(_value, arguments))
    body.graph.eliminate_dead_code()
    _check_plain(body.graph.nodes)
    return body


def _copy_before(node: Node, arguments: Sequence[Node], body: GraphModule) -> tuple[list[Node], dict[Node, Node]]:
    """Copy the nodes of a trace in front of the operator; returns them, and what is to be read in place of what."""
    graph = node.graph
    known = dict(zip((one for one in body.graph.nodes if one.op == "placeholder"), arguments, strict=True))
    new = []
    with graph.inserting_before(node):
        for one in body.graph.nodes:
            if one.op == "call_function":
                made = known[one] = graph.node_copy(one, known.__getitem__)
                made.meta |= {key: node.meta[key] for key in _PLACE if key in node.meta}
                new.append(made)
    given = body.graph.output_node().args[0]
    if isinstance(given, (list, tuple)):
        return new, {user: known[given[user.args[1]]] for user in node.users}  # type: ignore[index]
    return new, {node: known[given]}


def _read_instead(program: ExportedProgram, node: Node, now: Mapping[Node, Node], new: Sequence[Node]) -> None:
    """Let everything read new nodes in place of old ones, and take the operator out of the program."""
    for old, one in now.items():
        if any(user.op == "output" for user in old.users) and one not in new:
            raise _WholeError(f"{old.name} is a result and nothing but its argument")
        old.replace_all_uses_with(one)
        program.graph_signature.replace_all_uses(old.name, one.name)
    for old in dict.fromkeys([*now, node]):
        node.graph.erase_node(old)

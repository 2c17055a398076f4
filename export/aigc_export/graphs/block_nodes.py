"""Copy the nodes of a traced block to the places of blocks that equal it: between markers in an exported program.

Graph before: `enter(x) -> b_0's nodes -> leave, stand-in(y)`; after: `b_0's nodes, b_0's nodes with b_1's weights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Node

__all__ = ["ENTER", "LEAVE", "STAND_IN", "NotRepeatableError", "marker", "repeat_nodes"]

ENTER, LEAVE, STAND_IN = "enter", "leave", "stand-in"
"""What a marker stands for: the arguments of a traced block, its results, or the whole of another block."""


class NotRepeatableError(Exception):
    """A program whose blocks cannot be repeated: all of them have to be traced."""


@cache
def marker() -> Any:
    """Make the operator that stands at the ends of a traced block, and in the place of others.

    mark(values, like, role) -> a tensor of the size of each of `like`. It is never run.
    """
    import torch

    def mark(_values: list[Tensor], like: list[Tensor], _role: str) -> list[Tensor]:
        return [torch.empty_like(one) for one in like]

    schema = "(Tensor[] values, Tensor[] like, str role) -> Tensor[]"
    made = torch.library.custom_op("equal_blocks::mark", mark, mutates_args=(), schema=schema)
    made.register_fake(mark)
    return made


def repeat_nodes(program: ExportedProgram, firsts: Sequence[str], stand_ins: Sequence[str]) -> ExportedProgram:
    """Put the nodes of the traced block in the place of each operator that stands for an equal one.

    Args:
        program: with markers; changed.
        firsts: paths of the blocks that were traced; markers name them by their places.
        stand_ins: paths of the others, in the order of their calls.

    Raises:
        NotRepeatableError: nodes of the traced block lie where they cannot be told from those around it.
    """
    import torch

    graph = program.graph_module.graph
    marks = [_Mark.of(node) for node in graph.nodes if node.target is torch.ops.equal_blocks.mark.default]
    ends = {role: [one for one in marks if one.role == role] for role in (ENTER, LEAVE, STAND_IN)}
    held = _held_by_path(program)
    bodies = {}
    for enter in ends[ENTER]:
        path = firsts[enter.place]
        leave = next(one for one in ends[LEAVE] if one.place == enter.place)
        bodies[enter.place] = _Body.between(enter, leave, held, path)
    replaced: dict[str, str] = {}
    for one in ends[STAND_IN]:
        path = stand_ins[one.call]
        results = bodies[one.place].copy_before(one, held, path)
        replaced |= one.replace_by(results)
    for one in (*ends[LEAVE], *ends[ENTER]):
        replaced |= one.replace_by(one.values)
    for old, new in replaced.items():
        program.graph_signature.replace_all_uses(old, _last(new, replaced))
    graph.lint()
    program.graph_module.recompile()
    return program


def _last(name: str, replaced: Mapping[str, str]) -> str:
    while name in replaced:
        name = replaced[name]
    return name


def _held_by_path(program: ExportedProgram) -> dict[str, Node]:
    """The placeholders of weights and buffers, by their paths."""
    nodes = {node.name: node for node in program.graph_module.graph.nodes if node.op == "placeholder"}
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {path: nodes[name] for name, path in names.items()}


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """A marker in the graph of a program.

    Attributes:
        node: of the operator.
        role: which of the three it is.
        place: of its kind in the trace.
        call: of a block that it stands for.
    """

    node: Node
    role: str
    place: int
    call: int

    @classmethod
    def of(cls, node: Node) -> _Mark:
        """Read the marker's arguments."""
        role, place, *call = str(node.args[2]).split()
        return cls(node=node, role=role, place=int(place), call=int(call[0]) if call else -1)

    @property
    def values(self) -> list[Node]:
        """What it was given."""
        return list(self.node.args[0])  # type: ignore[arg-type]

    @property
    def results(self) -> dict[Node, int]:
        """The nodes that read its results, and which of them they read."""
        return {user: int(user.args[1]) for user in self.node.users}  # type: ignore[arg-type]

    def replace_by(self, values: Sequence[Node]) -> dict[str, str]:
        """Let everything read these values in place of the results; returns old name -> new name."""
        names = {}
        for result, index in self.results.items():
            result.replace_all_uses_with(values[index])
            names[result.name] = values[index].name
            result.graph.erase_node(result)
        self.node.graph.erase_node(self.node)
        return names


@dataclass(frozen=True, kw_only=True)
class _Body:
    """The nodes of a traced block.

    Attributes:
        path: of its module.
        entered: the nodes that read what it was given -> which of the arguments.
        nodes: what it computes, in order.
        results: what it gives.
    """

    path: str
    entered: dict[Node, int]
    nodes: list[Node]
    results: list[Node]

    @classmethod
    def between(cls, enter: _Mark, leave: _Mark, held: Mapping[str, Node], path: str) -> _Body:
        """Find what the results need and what depends on the arguments or on the weights of the module.

        The rest is shared by all blocks: sizes of the inputs, and constants.
        """
        own = {node for name, node in held.items() if name.startswith(f"{path}.")}
        needed: set[Node] = set()
        waiting = list(leave.values)
        while waiting:
            node = waiting.pop()
            if node not in needed and node is not enter.node:
                needed.add(node)
                waiting += node.all_input_nodes
        inside: dict[Node, None] = dict.fromkeys(enter.results)
        nodes = []
        for node in enter.node.graph.nodes:
            if node in needed and node not in inside and any(i in inside or i in own for i in node.all_input_nodes):
                inside[node] = None
                nodes.append(node)
        if any(node.op != "call_function" for node in nodes):
            raise NotRepeatableError(f"{path} computes what is no operator")
        return cls(path=path, entered=enter.results, nodes=nodes, results=leave.values)

    def copy_before(self, mark: _Mark, held: Mapping[str, Node], path: str) -> list[Node]:
        """Copy the nodes in front of an operator that stands for another block; returns what they give."""
        graph, values = mark.node.graph, mark.values
        own = {node: name for name, node in held.items() if name.startswith(f"{self.path}.")}
        known = {node: values[index] for node, index in self.entered.items()}

        def there(node: Node) -> Node:
            if node in own:
                return held[path + own[node].removeprefix(self.path)]
            return known.get(node, node)

        with graph.inserting_before(mark.node):
            for node in self.nodes:
                made = graph.node_copy(node, there)
                made.meta = {**node.meta, "nn_module_stack": _moved(node, self.path, path)}
                known[node] = made
        return [there(node) for node in self.results]


def _moved(node: Node, path: str, other: str) -> dict[str, Any]:
    """The modules that a node belongs to, once it belongs to another block."""
    stack = node.meta.get("nn_module_stack") or {}

    def move(text: str, start: str = "") -> str:
        inside = text == f"{start}{path}" or text.startswith(f"{start}{path}.")
        return f"{start}{other}{text.removeprefix(start + path)}" if inside else text

    return {move(key, "L__self__"): (move(where), kind) for key, (where, kind) in stack.items()}

"""onnxscript's optimizer: constant folding, common subexpressions, dead nodes, and its rewrite rules."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["onnxscript_optimize"]

FOLD_LIMIT_BYTES = 1 << 20
"""Results larger than this are not folded: an expanded mask in the file costs more than computing it."""
_ONE_AT_A_TIME = threading.Lock()
"""What is changed of onnxscript meanwhile is one for the whole process."""


def onnxscript_optimize(model: ir.Model) -> ir.Model:
    """Any graph -> the same function with fewer nodes; changes the model.

    Graph before: `y = Mul(Reshape(x, [..its own shape..]), Add(2, 3))`; after: `y = Mul(x, 5)`.

    1. Nodes of constants only -> an initializer (up to `FOLD_LIMIT_BYTES`).
    2. Identity, no-op Cast, Reshape, Transpose and Expand -> gone.
    3. Nodes whose results nobody reads -> gone.
    4. `If` whose condition is a constant -> the nodes of that branch.
    5. `x + 0`, `x - 0`, `x * 1`, `x / 1` -> x, where the constant is exactly that number: `x + 1e-8` stays.

    Opset 18 to 23; nodes of others stay as they are. Bodies of If, Loop and Scan are rewritten as well.
    """
    from onnxscript import optimizer

    with _ONE_AT_A_TIME, _first_node_compared(), _exact_constants():
        optimizer.optimize(model, output_size_limit=FOLD_LIMIT_BYTES)
    return model


@contextlib.contextmanager
def _first_node_compared() -> Iterator[None]:
    """Compare a node with the first node of a pattern before anything else is done.

    onnxscript lists all nodes of the graph for every node that a pattern of two results is tried on, whatever that node
    is: for 3,000 nodes 10 million steps (onnxscript 0.7.2, `SimplePatternMatcher.match`). Remove this once it does not.
    """
    from onnxscript.rewriter import pattern

    whole = pattern.RewriteRule.try_rewrite

    def try_rewrite(rule: Any, model: ir.Model, graph: Any, node: ir.Node, **options: Any) -> Any:
        first = rule._target_pattern.output_nodes[0].op_identifier()
        return whole(rule, model, graph, node, **options) if first in (None, node.op_identifier()) else None

    setattr(pattern.RewriteRule, "try_rewrite", try_rewrite)  # noqa: B010 - mypy takes no assignment to a method
    try:
        yield
    finally:
        setattr(pattern.RewriteRule, "try_rewrite", whole)  # noqa: B010


@contextlib.contextmanager
def _exact_constants() -> Iterator[None]:
    """Match the numbers of a pattern exactly.

    onnxscript takes a constant for 0 if it is within 1e-8 of it, and for 1 within 1e-5 (onnxscript 0.7.2,
    `Constant(rel_tol, abs_tol)`). An epsilon is no 0: without it the norm of zeros is a division by 0. Remove this once
    its patterns are exact.
    """
    from onnxscript.rewriter import _matcher

    near = _matcher.SimplePatternMatcher._match_constant

    def match_constant(self: Any, pattern: Any, value: ir.Value) -> bool:
        if not near(self, pattern, value):
            return False
        assert value.const_value is not None
        if value.const_value.numpy().tolist() == pattern.value:
            return True
        return bool(self.fail(f"{value.name} is near {pattern.value}, and not equal to it"))

    setattr(_matcher.SimplePatternMatcher, "_match_constant", match_constant)  # noqa: B010 - as above
    try:
        yield
    finally:
        setattr(_matcher.SimplePatternMatcher, "_match_constant", near)  # noqa: B010

"""onnxscript's optimizer: constant folding, common subexpressions, dead nodes, and its rewrite rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["onnxscript_optimize"]

FOLD_LIMIT_BYTES = 1 << 20
"""Results larger than this are not folded: an expanded mask in the file costs more than computing it."""


def onnxscript_optimize(model: ir.Model) -> ir.Model:
    """Any graph -> the same function with fewer nodes; changes the model.

    Graph before: `y = Mul(Reshape(x, [..its own shape..]), Add(2, 3))`; after: `y = Mul(x, 5)`.

    1. Nodes of constants only -> an initializer (up to `FOLD_LIMIT_BYTES`).
    2. Identity, no-op Cast, Reshape, Transpose and Expand -> gone.
    3. Nodes whose results nobody reads -> gone.
    4. `If` whose condition is a constant -> the nodes of that branch.

    Opset 18 to 23; nodes of others stay as they are. Bodies of If, Loop and Scan are rewritten as well.
    """
    from onnxscript import optimizer

    optimizer.optimize(model, output_size_limit=FOLD_LIMIT_BYTES)
    return model

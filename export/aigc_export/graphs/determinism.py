"""Refuse a captured program that does not compute the same twice, by the operator and the user's own line.

PyTorch and an engine draw different random numbers, so that nothing could be compared between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_export.errors import CaptureError
from aigc_models.sources.user_code import user_line
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

    from aigc_models.program import Part

__all__ = ["RandomOperator", "check_deterministic", "check_repeats", "random_operators"]

_SHOWN = 3
REPEATS_DB = 60.0
"""Two runs of float32 in another order of threads are 100 dB and more apart."""
REPEATS = 4
"""Calls that are compared with the first, while they are not the same: two numbers that are drawn may be alike."""
_TRAINING = "it behaves as in training: call .eval() on the module, and give F.dropout training=self.training"
_NOISE = (
    "PyTorch and an engine draw different numbers, so that nothing could be compared: take the noise as an argument of "
    "forward, or register it once as a buffer; docs/parity.md shows both"
)


@dataclass(frozen=True, kw_only=True)
class RandomOperator:
    """An operator whose result is not a function of the model's inputs alone.

    Attributes:
        operator: PyTorch's name, such as `aten.randn`.
        where: file, line and code of the user's that called it; empty if PyTorch did not say.
        training: it would be a function of them in evaluation mode.
    """

    operator: str
    where: str
    training: bool

    def __str__(self) -> str:
        """Describe the operator for a message."""
        return f"{self.operator} {self.where}".rstrip()


def check_deterministic(program: ExportedProgram) -> None:
    """Refuse a program with random operators, or with norms that learn from the batch.

    Raises:
        CaptureError: names the operators and the lines that called them.
    """
    found = list(random_operators(program))
    if not found:
        return
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    shown = "; ".join(map(str, found[:_SHOWN]))
    if all(one.training for one in found):
        raise CaptureError(f"the model does not compute the same twice: {shown}{more}", hint=_TRAINING)
    raise CaptureError(f"the model draws random numbers while it runs: {shown}{more}", hint=_NOISE)


def check_repeats(part: Part, feeds: Mapping[str, Array]) -> None:
    """Refuse a module that gives two results for one input: it draws outside of PyTorch, or remembers its calls.

    The program that was captured of it holds the one number that was drawn meanwhile, as a constant.

    Args:
        part: of a program.
        feeds: every input of its graph, of sizes that it takes.

    Raises:
        CaptureError: names the output, and by how much it changes.
    """
    from aigc_models.torch_session import TorchSession

    session = TorchSession(part)
    try:
        first = session.call(feeds)
        for _ in range(REPEATS):
            if not _changes(first, session.call(feeds)):
                return
    except EngineError:  # reported where the reference is made
        return


def _changes(first: Mapping[str, Array], second: Mapping[str, Array]) -> bool:
    """Whether any number differs.

    Raises:
        CaptureError: by more than another order of sums explains.
    """
    changes = False
    for name, values in first.items():
        if np.array_equal(values, second[name], equal_nan=values.dtype.kind == "f"):
            continue
        changes, errors = True, compare_arrays(values, second[name])
        if errors.problem or errors.sqnr_db < REPEATS_DB:
            changed = errors.problem or f"by {errors.max_over_rms:.2g} of its RMS"
            raise CaptureError(
                f"the model does not compute the same twice: output {name!r} changes from call to call ({changed}), "
                "and no operator of PyTorch draws",
                hint="its forward draws from Python's random or numpy.random, or changes what it keeps: take the "
                "numbers as an argument of forward, or register them once as a buffer; docs/parity.md shows both",
            )
    return changes


def random_operators(program: ExportedProgram) -> Iterator[RandomOperator]:
    """Find every such operator of a program, in its order, those of inner graphs included."""
    for graph in program.graph_module.modules():
        for node in getattr(getattr(graph, "graph", None), "nodes", ()):
            if node.op == "call_function" and (kind := _kind(node)):
                name = str(node.target).rsplit(".", 1)[0]
                yield RandomOperator(
                    operator=name, where=user_line(node.meta.get("stack_trace") or ""), training=kind == "training"
                )


def _kind(node: Node) -> str:
    """`random`, `training`, or nothing for an operator that computes the same twice."""
    import torch

    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return ""
    given = _arguments(node, target)
    training = next((given[name] for name in ("train", "training") if name in given), None)
    if "batch_norm" in str(target):
        # Without running statistics it is an instance norm spelled out, which always takes those of its input.
        return "training" if training is True and given.get("running_mean") is not None else ""
    if torch.Tag.nondeterministic_seeded not in target.tags or training is False:
        return ""
    if any(given.get(name) == 0 for name in ("dropout_p", "p", "dropout")):
        return ""
    return "training" if "dropout" in str(target) or training is True else "random"


def _arguments(node: Node, target: Any) -> dict[str, Any]:
    names = [argument.name for argument in target._schema.arguments]
    defaults = {a.name: a.default_value for a in target._schema.arguments if a.has_default_value()}
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}

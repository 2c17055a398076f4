"""Find the first node of an ONNX graph whose output differs from PyTorch, and the module it came from.

The exporter names an ONNX value after the node of the exported program that computed it, and the passes keep
the names of the values that they keep. So the reference is PyTorch itself: the exported program is interpreted
node by node, and every value of the ONNX graph that bears a node's name is compared with it, in the order in
which the graph computes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_runtime.core.compare import TensorErrors, Tolerance, compare_arrays, judge
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError
from aigc_runtime.system.temporary_folder import temporary_folder

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

__all__ = ["Divergence", "candidate_values", "find_first_divergence", "module_of", "reference_values"]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The result of a bisection.

    Attributes:
        found: False if every compared value is within the tolerance.
        value: name of the first value outside the tolerance.
        node: name of the ONNX node that computes it.
        op_type: its operator.
        module: path of the PyTorch module it came from, `(root)` for the model's own forward.
        errors: how far apart the two are.
        reasons: which limits are missed.
        last_good: the value compared just before, within the tolerance; None if the first one differs.
        compared: values compared up to and including this one.
        unmatched: values of the graph without a counterpart in PyTorch (made by a pass, or fused away).
    """

    found: bool
    value: str | None = None
    node: str | None = None
    op_type: str | None = None
    module: str | None = None
    errors: TensorErrors | None = None
    reasons: tuple[str, ...] = ()
    last_good: str | None = None
    compared: int = 0
    unmatched: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.found:
            return (
                f"no single node diverges: {self.compared} values compared with PyTorch, all within the tolerance. "
                "With every value exposed the engine fuses less, so the error lies in a fusion of the engine, or "
                "builds up over many nodes."
            )
        before = (
            f"the last value that agrees is {self.last_good!r}" if self.last_good else "it is the first one compared"
        )
        return (
            f"first divergence: node {self.node!r} ({self.op_type}), value {self.value!r}, from module "
            f"{self.module!r}: {'; '.join(self.reasons)}; {before}"
        )


def find_first_divergence(
    model: onnx.ModelProto,
    program: ExportedProgram,
    feeds: Mapping[str, Array],
    *,
    output_names: Sequence[str],
    tolerance: Tolerance,
) -> Divergence:
    """Compare every shared value of `model` with `program`, in the graph's order.

    Values inside bodies of If, Loop and Scan cannot be made outputs: what goes wrong there is found as the If, Loop or
    Scan itself.

    Args:
        model: the ONNX graph, with its weights.
        program: what `torch.export` made of the PyTorch module.
        feeds: every input of the graph, carried state included; in the order of the program's inputs.
        output_names: names of the graph's outputs, in the order of the program's outputs.
        tolerance: for one value; scale-free limits (`min_sqnr_db`, `min_cosine`) fit best.

    Returns:
        The first divergence, or one with `found=False`.

    Raises:
        EngineError: the graph does not run, or shares no value with the program.
    """
    reference = reference_values(program, list(feeds.values()), output_names)
    producers = {name: node for node in model.graph.node for name in node.output if name}
    shared = [name for name in producers if name in reference]
    if not shared:
        raise EngineError(
            "the graph shares no value name with the PyTorch program, so nothing can be compared",
            hint="bisect a graph captured by aigc-export from this model",
        )
    actual = candidate_values(model, feeds, shared)
    modules = module_of(program, output_names)
    last_good: str | None = None
    for count, name in enumerate(shared, start=1):
        errors = compare_arrays(*_mask_shared_infinities(reference[name], actual[name]))
        verdict = judge(errors, tolerance)
        if not verdict.passed:
            node = producers[name]
            return Divergence(
                found=True,
                value=name,
                node=node.name,
                op_type=node.op_type,
                module=modules.get(name),
                errors=errors,
                reasons=tuple(verdict.reasons),
                last_good=last_good,
                compared=count,
                unmatched=len(producers) - len(shared),
            )
        last_good = name
    return Divergence(found=False, last_good=last_good, compared=len(shared), unmatched=len(producers) - len(shared))


def _mask_shared_infinities(reference: Array, actual: Array) -> tuple[Array, Array]:
    """Zero what is the same infinity on both sides: an attention mask holds -inf on purpose."""
    if reference.shape != actual.shape or reference.dtype.kind != "f" or np.isfinite(reference).all():
        return reference, actual
    shared = np.isinf(reference) & (reference == actual)
    return np.where(shared, 0, reference), np.where(shared, 0, actual)


def reference_values(
    program: ExportedProgram, arrays: Sequence[Array], output_names: Sequence[str]
) -> dict[str, Array]:
    """Interpret the exported program and keep every tensor that it computes.

    Args:
        program: the exported program.
        arrays: the user inputs, in order.
        output_names: names under which the program's outputs are also returned.

    Returns:
        Value name -> float32, integer or boolean array.
    """
    import torch
    from torch.export.graph_signature import InputKind

    user = iter(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)
    held = {**program.constants, **program.state_dict}
    arguments = [
        next(user) if spec.kind == InputKind.USER_INPUT else held[str(spec.target)]
        for spec in program.graph_signature.input_specs
    ]
    values: dict[str, Array] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor) and n.op == "call_function":
                values[n.name] = result.detach().numpy().copy()
            elif n.op == "output":
                flat = [r for r in result if isinstance(r, torch.Tensor)]
                values.update({k: r.detach().numpy().copy() for k, r in zip(output_names, flat, strict=True)})
            return result

    with torch.inference_mode():
        Recorder(program.graph_module).run(*arguments)
    return values


def candidate_values(model: onnx.ModelProto, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """Run `model` in ONNX Runtime with the values `names` exposed as outputs.

    Raises:
        EngineError: the graph does not load or run.
    """
    from polygraphy.backend.onnx import ModifyOutputs, SaveOnnx
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.logger import G_LOGGER

    with temporary_folder("bisect") as folder, G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        path = str(folder / "exposed.onnx")
        try:
            exposed = ModifyOutputs(model, outputs=list(names), copy=True)
            SaveOnnx(exposed, path=path, external_data_path="exposed.data", size_threshold=2**20)()
            with OnnxrtRunner(SessionFromOnnx(path, providers=["cpu"])) as runner:
                read = {value.name for value in runner.sess.get_inputs()}  # Polygraphy drops inputs that nothing reads
                found = runner.infer({name: array for name, array in feeds.items() if name in read})
                return {name: np.array(value) for name, value in found.items()}
        except Exception as err:
            raise EngineError(
                f"the graph with its inner values exposed does not run: {err}",
                hint="run `aigc-export verify` without --bisect for the error alone",
            ) from err


def module_of(program: ExportedProgram, output_names: Sequence[str]) -> dict[str, str]:
    """Map each value's name to the path of the innermost PyTorch module whose forward computed it."""
    modules: dict[str, str] = {}
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        # The outermost module only makes the signature flat; the user's own model is its attribute `model`.
        paths = [path.removeprefix("model").removeprefix(".") for path, _ in stack.values()]
        modules[node.name] = paths[-1] if paths and paths[-1] else "(root)"
    results = next(node for node in program.graph.nodes if node.op == "output").args[0]
    modules.update({k: modules[node.name] for k, node in zip(output_names, results, strict=True)})
    return modules

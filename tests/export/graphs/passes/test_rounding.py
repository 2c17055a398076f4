"""What a pass may change follows from the rounding of the graph itself; what breaks a graph is refused at any scale."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.onnx_file import to_proto
from aigc_export.errors import CaptureError, PassError
from aigc_export.graphs.passes import CLEAN_UP, rounding, run_passes
from aigc_export.graphs.passes.rounding import evaluate_in_double, rounding_tolerance
from aigc_runtime.core.compare import compare_arrays, judge
from aigc_runtime.core.tensors import Array

from ...conftest import FAMILIES, Tiny, tensor_of, tiny_of

SCALES = (1e-3, 1.0, 1e3)


def scaled(tiny: Tiny, scale: float) -> ir.Model:
    """The captured graph with its first output multiplied."""
    model = ir.from_proto(to_proto(tiny.captured.model))
    output = model.graph.outputs[0]
    factor = ir.Value(name="factor", const_value=ir.tensor(np.float32(scale), name="factor"))
    model.graph.initializers["factor"] = factor
    node = ir.node("Mul", [output, factor])
    node.outputs[0].name, output.name = output.name, f"{output.name}_unscaled"
    node.outputs[0].shape, node.outputs[0].type = output.shape, output.type
    model.graph.append(node)
    model.graph.outputs[0] = node.outputs[0]
    return model


def is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def largest(model: ir.Model) -> ir.Value:
    return max(model.graph.initializers.values(), key=lambda value: tensor_of(value).nbytes)


def edit_constant(value: ir.Value, edit: Callable[[Array], Array]) -> None:
    value.const_value = ir.tensor(edit(tensor_of(value).numpy()).astype(np.float32), name=value.name)


def wrong_constant(model: ir.Model) -> ir.Model:
    edit_constant(largest(model), lambda w: w * (1 + 1e-4))
    return model


def rounded_to_fp16(model: ir.Model) -> ir.Model:
    edit_constant(largest(model), lambda w: w.astype(np.float16))
    return model


def one_number(model: ir.Model) -> ir.Model:
    """One weight of the largest product is lost."""

    def edit(w: Array) -> Array:
        w = w.copy()
        w.flat[np.abs(w).argmax()] = 0
        return w

    # Not an embedding, of which the example may not read that row.
    weights = [
        v for v in model.graph.initializers.values() if tensor_of(v).numpy().ndim > 1 and "embed" not in str(v.name)
    ]
    edit_constant(max(weights, key=lambda v: tensor_of(v).nbytes), edit)
    return model


def dropped_node(model: ir.Model) -> ir.Model:
    node = next(n for n in model.graph if n.op_type in {"Relu", "Sigmoid", "Softmax"})
    for user, index in list(node.outputs[0].uses()):
        user.replace_input_with(index, node.inputs[0])
    model.graph.remove(node, safe=True)
    return model


def swapped_inputs(model: ir.Model) -> ir.Model:
    operators = {"Sub", "Concat"} if any(n.op_type == "Sub" for n in model.graph) else {"Concat"}
    node = [n for n in model.graph if n.op_type in operators and is_float(n.inputs[0])][-1]
    first, second = node.inputs[0], node.inputs[1]
    node.replace_input_with(0, second)
    node.replace_input_with(1, first)
    return model


def smaller_epsilon(model: ir.Model) -> ir.Model:
    """1e-5 -> 1e-6 in every norm, wherever this graph has it."""
    changed = 0
    for node in model.graph:
        if "epsilon" in node.attributes:
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-6)
            changed += 1
        elif node.op_type == "Constant" and (value := node.attributes.get("value")) is not None:
            tensor = value.as_tensor()
            if tensor.size == 1 and tensor.dtype == ir.DataType.FLOAT and np.isclose(tensor.numpy(), 1e-5).all():
                node.attributes["value"] = ir.AttrTensor("value", ir.tensor(tensor.numpy() / np.float32(10)))
                changed += 1
    for initializer in model.graph.initializers.values():
        if tensor_of(initializer).size == 1 and np.isclose(tensor_of(initializer).numpy(), 1e-5).all():
            edit_constant(initializer, lambda w: w / 10)
            changed += 1
    assert changed, "the graph has no epsilon"
    return model


BROKEN = (wrong_constant, rounded_to_fp16, one_number, dropped_node, swapped_inputs, smaller_epsilon)


def case(family: str, scale: float) -> object:
    return pytest.param(family, scale, marks=[pytest.mark.slow] if family == "unet" and scale != 1 else [])


CASES = [case(family, scale) for family in FAMILIES for scale in SCALES]


@pytest.mark.parametrize(("name", "scale"), CASES)
@pytest.mark.parametrize("rewrite", BROKEN)
def test_a_pass_that_breaks_a_graph_is_refused_at_every_scale(
    rewrite: Callable[[ir.Model], ir.Model], name: str, scale: float
) -> None:
    tiny = tiny_of(name)
    with pytest.raises(PassError, match="pass 'bad' changed output"):
        run_passes(scaled(tiny, scale), [("bad", rewrite)], feeds=[tiny.feeds()])


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_sound_passes_get_through_at_every_scale(name: str, scale: float) -> None:
    tiny = tiny_of(name)
    _, reports = run_passes(scaled(tiny, scale), CLEAN_UP, feeds=[tiny.feeds()])
    assert all(report.rounding_db is not None and 100 < report.rounding_db < 160 for report in reports)


def small_graph(nodes: list[ir.Node], x: ir.Value, y: ir.Value, **constants: Array) -> ir.Model:
    """Nodes from `x` to `y`, whose other inputs are constants."""
    graph = ir.Graph([x], [y], nodes=nodes, opset_imports={"": 20}, name="small")
    for name, array in constants.items():
        value = next(v for n in nodes for v in n.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(array, name=name)
        graph.initializers[name] = value
    return ir.Model(graph, ir_version=10)


def value(name: str, *shape: int) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def matmul(w: Array) -> ir.Model:
    x = value("x", 4, len(w))
    node = ir.node("MatMul", [x, value("w", *w.shape)])
    node.outputs[0].name, node.outputs[0].shape = "y", ir.Shape((4, w.shape[1]))
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return small_graph([node], x, node.outputs[0], w=w)


def test_float64_is_what_numpy_computes_in_float64(rng: np.random.Generator) -> None:
    w = rng.standard_normal((300, 7)).astype(np.float32)
    x = rng.standard_normal((4, 300)).astype(np.float32)
    exact = evaluate_in_double(matmul(w), [{"x": x}])
    assert exact is not None
    np.testing.assert_allclose(exact[0]["y"], x.astype(np.float64) @ w.astype(np.float64), rtol=1e-13)
    assert exact[0]["y"].dtype == np.float64


def test_a_graph_that_float64_cannot_be_had_for_is_held_to_relative_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "MAX_WEIGHT_BYTES", 0)
    tiny = tiny_of("gan")
    for scale in SCALES:
        _, reports = run_passes(scaled(tiny, scale), CLEAN_UP, feeds=[tiny.feeds()])
        assert [report.rounding_db for report in reports] == [None, None, None]
        with pytest.raises(PassError, match="max_over_rms is"):
            run_passes(scaled(tiny, scale), [("bad", one_number)], feeds=[tiny.feeds()])


def test_an_output_that_is_nothing_but_rounding_may_be_rounded_otherwise(rng: np.random.Generator) -> None:
    """1e4 + w x - 1e4: a reordered sum is as far from the truth as the first, and 30 % from it."""
    tiny_w = (1e-4 * rng.standard_normal((64, 3))).astype(np.float32)
    x = rng.standard_normal((4, 64)).astype(np.float32)

    def chain(*, reverse: bool) -> ir.Model:
        model = matmul(tiny_w)
        product, node = model.graph.outputs[0], None
        product.name = "product"
        for i, constant in enumerate((1e4, -1e4)):
            name = f"c{i}"
            held = ir.Value(name=name, const_value=ir.tensor(np.float32(constant), name=name))
            model.graph.initializers[name] = held
            node = ir.node("Add", [product if node is None else node.outputs[0], held])
            node.outputs[0].shape, node.outputs[0].type = product.shape, product.type
            model.graph.append(node)
        assert node is not None
        node.outputs[0].name, model.graph.outputs[0] = "y", node.outputs[0]
        if reverse:  # the same sum, (w x - 1e4) + 1e4
            a, b = model.graph.initializers["c0"], model.graph.initializers["c1"]
            a.const_value, b.const_value = ir.tensor(np.float32(-1e4), name="c0"), ir.tensor(np.float32(1e4), name="c1")
        return model

    def broken(_: ir.Model) -> ir.Model:
        return matmul(tiny_w * 10)

    _, (report,) = run_passes(chain(reverse=False), [("reorder", lambda _: chain(reverse=True))], feeds=[{"x": x}])
    assert report.rounding_db is not None
    assert report.rounding_db < 30
    with pytest.raises(PassError, match="changed output 'y'"):
        run_passes(chain(reverse=False), [("bad", broken)], feeds=[{"x": x}])


def test_a_graph_that_gives_infinity_itself_is_refused_before_any_pass() -> None:
    called: list[str] = []
    w = np.full((4, 3), 1e38, dtype=np.float32)

    def anything(model: ir.Model) -> ir.Model:
        called.append("ran")
        return model

    with pytest.raises(CaptureError, match="output 'y' holds NaN or infinity on example inputs"):
        run_passes(matmul(w), [("any", anything)], feeds=[{"x": np.full((4, 4), 9.0, "f4")}])
    assert not called


def test_the_limit_follows_from_the_rounding() -> None:
    exact = np.linspace(-3, 3, 1001)
    for noise in (0.0, 1e-7, 1e-5, 1e-3):
        error = noise * np.where(np.arange(1001) % 2, 1.0, -1.0)
        limit = rounding_tolerance(compare_arrays(exact, exact + error))
        assert judge(compare_arrays(exact, exact - 3.5 * error), limit).passed
        assert not judge(compare_arrays(exact, exact + 5 * error + 1e-6), limit).passed


def sum_of_three(large: float, *, in_turn: bool) -> ir.Model:
    """x + 128 + large - (large + 128), in turn or the last two first; both are x."""
    x = value("x", 64, 64)
    a, b, c = (value(name) for name in "abc")
    first = ir.node("Add", [x, a])
    second = ir.node("Add", [first.outputs[0], b] if in_turn else [b, c])
    last = ir.node("Add", [second.outputs[0], c] if in_turn else [first.outputs[0], second.outputs[0]])
    last.outputs[0].name, last.outputs[0].shape, last.outputs[0].type = "y", x.shape, x.type
    constants = {"a": np.array(128, "f4"), "b": np.array(large, "f4"), "c": np.array(-large - 128, "f4")}
    return small_graph([first, second, last], x, last.outputs[0], **constants)


def test_what_is_the_same_in_float64_may_round_more_in_another_order(rng: np.random.Generator) -> None:
    x = rng.standard_normal((64, 64)).astype(np.float32)

    def reorder(large: float, **wrong: float) -> None:
        """Numbers near 128 are rounded to 2^-16; near 1600, to 2^-13: eight times as coarsely."""

        def rewrite(_: ir.Model) -> ir.Model:
            model = sum_of_three(large, in_turn=True)
            for name, number in wrong.items():
                model.graph.initializers[name].const_value = ir.tensor(np.float32(number), name=name)
            return model

        run_passes(sum_of_three(large, in_turn=False), [("reorder", rewrite)], feeds=[{"x": x}])

    reorder(1500.0)
    with pytest.raises(PassError, match="changed output 'y'"):  # as coarse, and another number
        reorder(1500.0, a=128.0 + 2.0**-13)
    with pytest.raises(PassError, match="changed output 'y'"):  # rounded to 2^-3, 8192 times as coarsely
        reorder(2.0**20)

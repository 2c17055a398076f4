"""Products of one value become one, with the same numbers, and only where no weight is stored twice."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.blocks import to_matmul_nbits
from aigc_calibration.edit import add_constant
from aigc_calibration.grids import GRIDS
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import copy_graph
from aigc_calibration.weights import round_to_blocks
from aigc_export.graphs.passes.decoder.packed_products import pack_products
from aigc_runtime.core.tensors import Array

from .decoders import decoder, operators, results
from .texts import graph, value

INPUTS, WIDTHS = 64, (48, 16, 32)


def products(*, bits: dict[int, int] | None = None, bias: bool = False) -> ir.Model:
    """x times three weights; each a MatMul, or in blocks of so many bits."""
    rng = np.random.default_rng(0)
    model = graph(
        "float[b,s,64] x, float[64,48] w0, float[64,16] w1, float[64,32] w2 "
        "=> float[b,s,48] y0, float[b,s,16] y1, float[b,s,32] y2",
        "y0 = MatMul(x, w0) y1 = MatMul(x, w1) y2 = MatMul(x, w2)",
    )
    for index, given in enumerate(list(model.graph.inputs)[1:]):
        model.graph.inputs.remove(given)
        array = rng.standard_normal((INPUTS, WIDTHS[index])).astype(np.float32)
        given.const_value = ir.tensor(array, name=given.name)
        model.graph.register_initializer(given)
    for index, wide in (bits or {}).items():
        node = value(model, f"y{index}").producer()
        weight = model.graph.initializers[f"w{index}"].const_value
        assert node is not None
        assert weight is not None
        if bias:
            node.resize_inputs(3)
            node.replace_input_with(
                2, add_constant(model.graph, f"b{index}", rng.standard_normal(WIDTHS[index]).astype(np.float32))
            )
        to_matmul_nbits(
            model.graph, node, round_to_blocks(f"w{index}", weight.numpy(), GRIDS["int4" if wide == 4 else "int8"], 32)
        )
        del model.graph.initializers[f"w{index}"]
    return model


def outputs(model: ir.Model, rows: int = 3) -> dict[str, Array]:
    x = np.random.default_rng(1).standard_normal((2, rows, INPUTS)).astype(np.float32)
    return dict(open_onnx(model, optimize=False, packed=False)({"x": x}))


@pytest.mark.parametrize(
    ("form", "op_type"),
    [
        ({}, "MatMul"),
        ({"bits": dict.fromkeys(range(3), 4)}, "MatMulNBits"),
        ({"bits": dict.fromkeys(range(3), 8)}, "MatMulNBits"),
    ],
)
@pytest.mark.parametrize("rows", [1, 5])
def test_one_product_gives_the_same(form: dict[str, Any], op_type: str, rows: int) -> None:
    before = products(**form)
    packed = pack_products(copy_graph(before))
    assert [operators(packed, name) for name in (op_type, "Split")] == [1, 1]
    assert len(packed.graph) == 2
    found = outputs(packed, rows)
    for name, array in outputs(before, rows).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


def test_biases_of_products_in_blocks_follow_each_other() -> None:
    before = products(bits=dict.fromkeys(range(3), 4), bias=True)
    packed = pack_products(copy_graph(before))
    assert len(packed.graph) == 2
    found = outputs(packed)
    for name, array in outputs(before).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


def test_products_of_other_kinds_stay_apart() -> None:
    packed = pack_products(products(bits={0: 4, 1: 4, 2: 8}))
    assert [operators(packed, name) for name in ("MatMulNBits", "Split")] == [2, 1]
    assert pack_products(products(bits={0: 4, 1: 8})).graph.node(0).op_type == "MatMulNBits"


def test_a_weight_that_is_read_elsewhere_is_not_stored_twice() -> None:
    model = products()
    extra = ir.node("Identity", [model.graph.initializers["w1"]], name="again")
    extra.outputs[0].name, extra.outputs[0].type = "again", ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(extra)
    model.graph.outputs.append(extra.outputs[0])
    packed = pack_products(model)
    assert operators(packed, "MatMul") == 2
    assert value(packed, "y1").producer().inputs[1].name == "w1"  # type: ignore[union-attr]


def test_weights_that_are_computed_stay_apart() -> None:
    model = graph(
        "float[b,s,4] x, float[4,2] w, float[4,3] v => float[b,s,2] y, float[b,s,3] z",
        "y = MatMul(x, w) z = MatMul(x, v)",
    )
    assert operators(pack_products(model), "MatMul") == 2


def test_the_names_of_what_became_one_are_noted() -> None:
    packed = pack_products(products(bits=dict.fromkeys(range(3), 4)))
    (noted,) = packed.graph.node(0).metadata_props.values()
    assert json.loads(noted) == [f"w{index}_quantized" for index in range(3)]


def test_weights_are_joined_when_they_are_written(tmp_path: Any) -> None:
    packed = pack_products(products())
    weight = packed.graph.node(0).inputs[1]
    assert weight is not None
    assert isinstance(weight.const_value, ir.LazyTensor)
    (path,) = save_graph(packed, tmp_path / "packed.onnx")
    stored = ir.load(path).graph.initializers[str(weight.name)].const_value
    assert stored is not None
    before = [products().graph.initializers[f"w{index}"].const_value for index in range(3)]
    np.testing.assert_array_equal(stored.numpy(), np.concatenate([one.numpy() for one in before if one is not None], 1))


def test_a_decoder_has_two_products_less_of_its_heads_and_one_of_its_gate() -> None:
    interface, model = decoder()
    _, packed = decoder()
    assert operators(pack_products(packed), "MatMul") == operators(model, "MatMul") - 2 * (2 + 1)
    for one, other in zip(results(model, interface), results(packed, interface), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

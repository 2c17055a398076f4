"""Tables that are looked up are stored in 8 bits, once with a product that reads the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from aigc_calibration import coverage
from aigc_calibration.config import QuantConfig
from aigc_calibration.emit import emit
from aigc_calibration.errors import PlanError
from aigc_calibration.formats import SIGNED_FORMAT, UNSIGNED_FORMAT
from aigc_calibration.grids import GRIDS
from aigc_calibration.integer_products import Optimized
from aigc_calibration.lookups import LEAST_SHARE, find_lookups
from aigc_calibration.onnx_file import to_proto, weight_bytes
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import LookupPlan, SitePrecision, parse_plan
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import Quantized, quantize
from aigc_calibration.search.pair import PrecisionPair
from aigc_calibration.weight_only import quantize_weights, weight_plan
from aigc_calibration.weights import round_to_blocks
from aigc_runtime.core.tensors import Array

from .conftest import Batches

ROWS, WIDTH = 50, 64
NEAREST = QuantConfig(weight_method="rtn")


def language_model(*, tied: bool, width: int = WIDTH, axis: int = 0, seed: int = 0) -> ir.Model:
    """Ids -> rows of a table -> a projection -> an output layer, which may be the table's own."""
    rng = np.random.default_rng(seed)
    table, middle, head = (
        rng.standard_normal(s).astype(np.float32) for s in ((ROWS, width), (width,) * 2, (ROWS, width))
    )
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="embed", axis=axis),
        helper.make_node("MatMul", ["rows", "middle"], ["hidden"], name="inner"),
        helper.make_node("Transpose", ["table" if tied else "head"], ["turned"], perm=[1, 0], name="turn"),
        helper.make_node("MatMul", ["hidden", "turned"], ["logits"], name="outer"),
    ]
    constants = {"table": table, "middle": middle, **({} if tied else {"head": head})}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", "S"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "S", ROWS])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def ids(*shape: int) -> dict[str, Array]:
    return {"ids": np.random.default_rng(1).integers(0, ROWS, shape)}


def quantized(model: ir.Model, precision: SitePrecision = "int8-weight", config: QuantConfig = NEAREST) -> Quantized:
    return quantize(model, Batches((ids(4, 6),)), config, precision=precision, form=UNSIGNED_FORMAT)


def only(found: Quantized) -> LookupPlan:
    (lookup,) = found.plan.lookups
    return lookup


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", ["int8-weight", "int4-weight", "int8"])
def test_rows_are_those_of_the_codes(tied: bool, precision: SitePrecision) -> None:
    model = language_model(tied=tied)
    found = quantized(model, precision)
    table = model.graph.initializers["table"].const_value
    assert table is not None
    assert only(found).precision == "int8-weight"
    assert "Gather" not in ops(found.graph)
    node = next(n for n in found.graph.graph if n.op_type == "GatherBlockQuantized")
    found.graph.graph.outputs.append(next(v for n in found.graph.graph for v in n.outputs if v.name == "rows"))
    rows = open_onnx(found.graph)(ids(2, 3))["rows"]
    codes = round_to_blocks("table", table.numpy().T, GRIDS["int8"], 32).dequantize().T
    np.testing.assert_array_equal(rows, codes[ids(2, 3)["ids"]])
    assert node.name == "embed"


def test_a_tied_table_is_stored_once() -> None:
    tied, own = (quantized(language_model(tied=t)) for t in (True, False))
    assert only(tied).shares == "outer_weight"
    assert only(own).shares is None
    codes_and_scales = ROWS * (WIDTH + 4 * WIDTH // 32)
    assert weight_bytes(own.graph) - weight_bytes(tied.graph) == pytest.approx(codes_and_scales, abs=64)


def test_four_bits_are_too_few_for_rows() -> None:
    """The product's 4-bit codes are not read: the table has codes of its own."""
    assert only(quantized(language_model(tied=True), "int4-weight")).shares is None
    wide = replace(NEAREST, wide=("outer",))
    model = language_model(tied=True)
    next(n for n in model.graph if n.name == "outer").metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'outer', '']"
    assert only(quantized(model, "int4-weight", wide)).shares == "outer_weight"


def test_rows_of_no_whole_number_of_blocks_have_codes_of_their_own() -> None:
    found = quantized(language_model(tied=True, width=40))
    assert only(found).shares is None
    assert open_onnx(found.graph)(ids(2, 3))["logits"].shape == (2, 3, ROWS)


def test_another_table_of_that_shape_is_not_the_products() -> None:
    model = language_model(tied=True)
    table = model.graph.initializers["table"].const_value
    assert table is not None
    changed = table.numpy().copy()
    changed[3, 5] += 1e-3
    other = ir.Value(name="other", const_value=ir.tensor(changed, name="other"))
    model.graph.initializers["other"] = other
    next(n for n in model.graph if n.name == "embed").replace_input_with(0, other)
    assert only(quantized(model)).shares is None


def test_what_stays_float_says_why() -> None:
    named = language_model(tied=False)
    next(n for n in named.graph if n.name == "embed").metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'e', '']"
    assert only(quantized(named, config=replace(NEAREST, keep_float=("e",)))).why == "asked to stay float"
    masked = language_model(tied=False)
    table = np.full((ROWS, WIDTH), -3.4e38, dtype=np.float32)
    masked.graph.initializers["table"].const_value = ir.tensor(table, name="table")
    assert "mask constant" in only(quantized(masked)).why
    small = language_model(tied=False)
    large = np.zeros((WIDTH, round(ROWS / LEAST_SHARE) + ROWS), dtype=np.float32)
    node = next(n for n in small.graph if n.name == "outer")
    value = ir.Value(name="large", const_value=ir.tensor(large, name="large"))
    small.graph.initializers["large"] = value
    node.replace_input_with(1, value)
    assert "too small" in only(quantized(small)).why
    for found in (quantized(masked), quantized(small)):
        assert only(found).block is None
        assert "Gather" in ops(found.graph)


def test_other_gathers_are_no_lookups() -> None:
    assert find_lookups(language_model(tied=True, width=ROWS, axis=1)) == ()
    (found,) = find_lookups(language_model(tied=True))
    assert (found.node, found.table, found.shape) == ("embed", "table", (ROWS, WIDTH))


def test_an_engine_without_the_operator_looks_up_floats() -> None:
    data = Batches((ids(4, 6),))
    found = quantize(
        language_model(tied=True), data, NEAREST, precision="int8-weight", form=SIGNED_FORMAT, executed=lambda *_: None
    )
    assert found.plan.lookups == ()
    assert "Gather" in ops(found.graph)


def test_a_plan_keeps_its_lookups() -> None:
    plan = quantized(language_model(tied=True)).plan
    assert parse_plan(plan.dump()) == plan


def test_a_lookup_that_the_engine_lost_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = quantized(language_model(tied=False))

    @contextmanager
    def without(model: ir.Model) -> Iterator[Optimized]:
        given, runs = to_proto(model), to_proto(model)
        for node in runs.graph.node:
            node.op_type = "Gather" if node.op_type == "GatherBlockQuantized" else node.op_type
        yield Optimized(given=given, runs=runs, folder="")

    monkeypatch.setattr(coverage, "optimized", without)
    with pytest.raises(PlanError, match=r"would look up table in float\n.*--keep-float"):
        coverage.executed_sites(found.graph, found.plan)


def test_a_mix_looks_up_codes_as_well() -> None:
    model = prepare(language_model(tied=True))
    low, high = (weight_plan(model, NEAREST, precision=p) for p in ("int4-weight", "int8-weight"))
    codes = [quantize_weights(model, plan, Batches((ids(4, 6),)), NEAREST) for plan in (low, high)]
    pair = PrecisionPair(
        name="", graph=model, low=low, low_weights=codes[0], high=high, high_weights=codes[1], form=UNSIGNED_FORMAT
    )
    for kept_high, shares in (({}, None), ({"outer": "asked"}, "outer_weight")):
        plan, weights = pair.mix(kept_high)
        assert plan.lookups[0].shares == shares
        assert ops(emit(model, plan, weights, UNSIGNED_FORMAT)).count("GatherBlockQuantized") == 1
    alone = PrecisionPair(
        name="", graph=model, low=high, low_weights=codes[1], high=None, high_weights={}, form=UNSIGNED_FORMAT
    )
    assert alone.mix({"inner": "asked"})[0].lookups[0].shares == "outer_weight"
    assert alone.mix({"inner": "asked", "outer": "asked"})[0].lookups == ()


def twice(model: ir.Model) -> ir.Model:
    """The same table looked up a second time, by other ids; both results are outputs."""
    again = ir.node("Gather", [model.graph.initializers["table"], model.graph.inputs[0]], name="again")
    again.outputs[0].name = "more"
    again.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(again)
    model.graph.outputs.append(again.outputs[0])
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_a_table_that_is_looked_up_twice_is_stored_once(tied: bool) -> None:
    once, more = quantized(language_model(tied=tied)), quantized(twice(language_model(tied=tied)))
    assert ops(more.graph).count("GatherBlockQuantized") == 2
    assert weight_bytes(more.graph) == pytest.approx(weight_bytes(once.graph), abs=64)
    found = open_onnx(more.graph)(ids(2, 3))
    table = language_model(tied=tied).graph.initializers["table"].const_value
    assert table is not None
    codes = round_to_blocks("table", table.numpy().T, GRIDS["int8"], 32).dequantize().T
    np.testing.assert_array_equal(found["more"], codes[ids(2, 3)["ids"]])


def test_a_table_that_is_read_as_a_whole_too_stays_float() -> None:
    model = language_model(tied=False)
    copied = ir.node("Identity", [model.graph.initializers["table"]], name="whole")
    copied.outputs[0].name, copied.outputs[0].type = "copy", ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(copied)
    model.graph.outputs.append(copied.outputs[0])
    assert "stored twice" in only(quantized(model)).why


def test_ids_of_unknown_rank_do_not_read_a_products_codes() -> None:
    model = language_model(tied=True)
    model.graph.inputs[0].shape = None
    found = quantized(model)
    assert only(found).shares is None
    assert open_onnx(found.graph)(ids(2, 3))["logits"].shape == (2, 3, ROWS)

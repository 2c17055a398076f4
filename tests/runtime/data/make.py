"""Makes the tiny graphs that the runtime's tests load: `python tests/runtime/data/make.py` (needs onnx).

The toy language model holds every token's value as carried state. Its next token is the sum of all tokens so far,
padding left out, modulo 256, so that a cache that is wrong in any way gives another text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

HERE = Path(__file__).parent
CAPACITY = 32


def const(name: str, value: object, dtype: str = "int64") -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def save(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
) -> None:
    graph = h.make_graph(nodes, name, inputs, outputs, constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, HERE / f"{name}.onnx")


def toy_lm(kind: str) -> None:
    """[batch, sequence] ids and a cache of values -> logits -|v - sum mod 256| of the places to keep.

    The cache is `growing`, a `buffer` of a fixed size, or an `elastic` one, whose size is chosen for each run.
    """
    buffer = kind in ("buffer", "elastic")
    sizes: dict[str, str | int] = {"growing": "past", "buffer": CAPACITY, "elastic": "capacity"}
    keys = sizes[kind]
    inputs = [
        h.make_tensor_value_info("input_ids", T.INT64, ["batch", "sequence"]),
        h.make_tensor_value_info("pad_length", T.INT64, ["batch"]),
        h.make_tensor_value_info("logits_to_keep", T.INT64, ["kept"]),
        h.make_tensor_value_info("past_value_0", T.FLOAT, ["batch", 1, keys, 1]),
    ]
    if buffer:
        inputs.append(h.make_tensor_value_info("past_length", T.INT64, [1]))
    present = keys if buffer else "total"
    outputs = [
        h.make_tensor_value_info("logits", T.FLOAT, ["batch", "kept", 256]),
        h.make_tensor_value_info("present_value_0", T.FLOAT, ["batch", 1, present, 1]),
    ]
    constants = [
        const("zero", 0),
        const("one", 1),
        const("zero_1", [0]),
        const("one_1", [1]),
        const("two_1", [2]),
        const("three_1", [3]),
        const("axes_13", [1, 3]),
        const("f0", 0.0, "float32"),
        const("f256", 256.0, "float32"),
        const("vocab", np.arange(256), "float32"),
    ]
    nodes = [
        h.make_node("Shape", ["input_ids"], ["s_1"], start=1, end=2),
        h.make_node("Squeeze", ["s_1"], ["s"]),
        h.make_node("Range", ["zero", "s", "one"], ["steps"]),
        h.make_node("Shape", ["past_value_0"], ["p_1"], start=2, end=3),
        h.make_node("Add", ["steps", "past_length" if buffer else "p_1"], ["index"]),
        h.make_node("Unsqueeze", ["pad_length", "one_1"], ["pad_column"]),
        h.make_node("GreaterOrEqual", ["index", "pad_column"], ["real"]),
        h.make_node("Cast", ["input_ids"], ["float_ids"], to=T.FLOAT),
        h.make_node("Where", ["real", "float_ids", "f0"], ["values"]),
        h.make_node("Unsqueeze", ["values", "axes_13"], ["new"]),
        h.make_node("ReduceSum", ["past_value_0", "axes_123"], ["held_all"], keepdims=0),
    ]
    constants.append(const("axes_123", [1, 2, 3]))
    if buffer:
        # Only what has been written counts: the rest of the buffer may hold anything.
        if kind == "elastic":
            places = [
                h.make_node("Squeeze", ["p_1"], ["p"]),
                h.make_node("Range", ["zero", "p", "one"], ["places"]),
                h.make_node("Unsqueeze", ["places", "axes_013"], ["slots"]),
            ]
        else:
            places = []
            constants.append(const("slots", np.arange(CAPACITY).reshape(1, 1, CAPACITY, 1)))
        nodes[-1:] = [
            *places,
            h.make_node("Less", ["slots", "past_length"], ["written"]),
            h.make_node("Where", ["written", "past_value_0", "f0"], ["held"]),
            h.make_node("ReduceSum", ["held", "axes_123"], ["held_all"], keepdims=0),
            h.make_node("Unsqueeze", ["index", "axes_013"], ["slot_4d"]),
            h.make_node("Shape", ["new"], ["new_shape"]),
            h.make_node("Expand", ["slot_4d", "new_shape"], ["slot_index"]),
            h.make_node("ScatterElements", ["past_value_0", "slot_index", "new"], ["present_value_0"], axis=2),
        ]
        constants.append(const("axes_013", [0, 1, 3]))
    else:
        nodes.append(h.make_node("Concat", ["past_value_0", "new"], ["present_value_0"], axis=2))
    nodes += [
        h.make_node("CumSum", ["values", "one"], ["running"]),
        h.make_node("Unsqueeze", ["held_all", "one_1"], ["held_column"]),
        h.make_node("Add", ["running", "held_column"], ["sum"]),
        h.make_node("Mod", ["sum", "f256"], ["next"], fmod=1),
        h.make_node("Gather", ["next", "logits_to_keep"], ["kept_next"], axis=1),
        h.make_node("Unsqueeze", ["kept_next", "two_1"], ["next_3d"]),
        h.make_node("Sub", ["vocab", "next_3d"], ["gap"]),
        h.make_node("Abs", ["gap"], ["distance"]),
        h.make_node("Neg", ["distance"], ["logits"]),
    ]
    used = {name for node in nodes for name in node.input}
    save(f"toy_lm_{kind}", nodes, inputs, outputs, [c for c in constants if c.name in used])


def toy_unet() -> None:
    """model_output = sample * 0.5 + class / 10 + timestep / 1000."""
    inputs = [
        h.make_tensor_value_info("sample", T.FLOAT, ["batch", 1, 4, 4]),
        h.make_tensor_value_info("timestep", T.FLOAT, ["batch"]),
        h.make_tensor_value_info("class_labels", T.INT64, ["batch"]),
    ]
    nodes = [
        h.make_node("Mul", ["sample", "half"], ["scaled"]),
        h.make_node("Cast", ["class_labels"], ["c"], to=T.FLOAT),
        h.make_node("Mul", ["c", "tenth"], ["c10"]),
        h.make_node("Mul", ["timestep", "thousandth"], ["t"]),
        h.make_node("Add", ["c10", "t"], ["shift"]),
        h.make_node("Unsqueeze", ["shift", "axes"], ["shift_4d"]),
        h.make_node("Add", ["scaled", "shift_4d"], ["model_output"]),
    ]
    constants = [
        const("half", 0.5, "float32"),
        const("tenth", 0.1, "float32"),
        const("thousandth", 0.001, "float32"),
        const("axes", [1, 2, 3]),
    ]
    outputs = [h.make_tensor_value_info("model_output", T.FLOAT, ["batch", 1, 4, 4])]
    save("toy_unet", nodes, inputs, outputs, constants)


def toy_gan() -> None:
    """image [1, 2, 2] = tanh(latents [4] + class / 10)."""
    inputs = [
        h.make_tensor_value_info("latents", T.FLOAT, ["batch", 4]),
        h.make_tensor_value_info("class_labels", T.INT64, ["batch"]),
    ]
    nodes = [
        h.make_node("Cast", ["class_labels"], ["c"], to=T.FLOAT),
        h.make_node("Mul", ["c", "tenth"], ["c10"]),
        h.make_node("Unsqueeze", ["c10", "axes"], ["column"]),
        h.make_node("Add", ["latents", "column"], ["z"]),
        h.make_node("Tanh", ["z"], ["flat"]),
        h.make_node("Reshape", ["flat", "shape"], ["image"]),
    ]
    constants = [const("tenth", 0.1, "float32"), const("axes", [1]), const("shape", [-1, 1, 2, 2])]
    save("toy_gan", nodes, inputs, [h.make_tensor_value_info("image", T.FLOAT, ["batch", 1, 2, 2])], constants)


def toy_gan_external() -> None:
    """toy_gan, its latents shifted by the sum of weights [4096] in a file of their own: model.onnx.data.

    Only the graph is kept here; the weights are what a test writes.
    """
    toy_gan()
    model = onnx.load(HERE / "toy_gan.onnx")
    add = next(node for node in model.graph.node if node.op_type == "Add")
    model.graph.node.insert(0, h.make_node("ReduceSum", ["weights"], ["shift"], keepdims=0))
    model.graph.node.insert(1, h.make_node("Add", [add.input[0], "shift"], ["shifted"]))
    add.input[0] = "shifted"
    weights = numpy_helper.from_array(np.zeros(4096, np.float32), "weights")
    weights.ClearField("raw_data")
    weights.data_location = T.EXTERNAL
    for key, value in (("location", "model.onnx.data"), ("offset", "0"), ("length", str(4 * 4096))):
        weights.external_data.add(key=key, value=value)
    model.graph.initializer.append(weights)
    (HERE / "toy_gan_external.onnx").write_bytes(model.SerializeToString())


def toy_mixed() -> None:
    """Carried state of every kind at once: see tests/runtime/mixed.py for the formula."""
    inputs = [
        h.make_tensor_value_info("x", T.FLOAT, ["batch", "sequence"]),
        h.make_tensor_value_info("mask", T.BOOL, ["batch", "past+sequence"]),
        h.make_tensor_value_info("length", T.INT64, [1]),
        h.make_tensor_value_info("taken", T.INT64, [1]),
        h.make_tensor_value_info("growing", T.FLOAT, ["batch", "past"]),
        h.make_tensor_value_info("buffer", T.FLOAT, ["batch", 12]),
        h.make_tensor_value_info("window", T.FLOAT, ["batch", 5]),
        h.make_tensor_value_info("recurrent", T.FLOAT, [2, "batch"]),
    ]
    outputs = [
        h.make_tensor_value_info("y", T.FLOAT, ["batch", "sequence"]),
        h.make_tensor_value_info("seen", T.FLOAT, ["batch", "past+sequence"]),
        h.make_tensor_value_info("last", T.FLOAT, ["batch", 6]),
        h.make_tensor_value_info("grown", T.FLOAT, ["batch", "past+sequence"]),
        h.make_tensor_value_info("written", T.FLOAT, ["batch", 12]),
        h.make_tensor_value_info("moved", T.FLOAT, ["batch", 5]),
        h.make_tensor_value_info("replaced", T.FLOAT, [2, "batch"]),
    ]
    constants = [
        *(const(f"i{n}", n) for n in (0, 1)),
        *(const(f"axis_{n}", [n]) for n in (0, 1)),
        const("minus_5", [-5]),
        const("far", [2**31]),
        *(const(f"f{n}", n, "float32") for n in (0, 2, 3, 5, 7, 11, 13)),
        const("one_one", [[1]], "float32"),
        const("slots", np.arange(12).reshape(1, 12)),
    ]
    nodes = [
        h.make_node("Shape", ["x"], ["steps_1"], start=1, end=2),
        h.make_node("Shape", ["x"], ["rows_1"], start=0, end=1),
        h.make_node("Squeeze", ["steps_1"], ["steps"]),
        h.make_node("Range", ["i0", "steps", "i1"], ["order"]),
        h.make_node("Cast", ["order"], ["order_f"], to=T.FLOAT),
        h.make_node("Concat", ["growing", "x"], ["grown"], axis=1),
        h.make_node("Mul", ["grown", "f2"], ["twice"]),
        h.make_node("Where", ["mask", "twice", "f0"], ["seen"]),
        h.make_node("Add", ["order", "length"], ["places"]),
        h.make_node("Unsqueeze", ["places", "axis_0"], ["places_2d"]),
        h.make_node("Shape", ["x"], ["x_shape"]),
        h.make_node("Expand", ["places_2d", "x_shape"], ["places_all"]),
        h.make_node("ScatterElements", ["buffer", "places_all", "x"], ["written"], axis=1),
        h.make_node("Concat", ["window", "x"], ["longer"], axis=1),
        h.make_node("Slice", ["longer", "minus_5", "far", "axis_1"], ["moved"]),
        h.make_node("Concat", ["rows_1", "axis_1"], ["column_shape"], axis=0),
        h.make_node("Expand", ["one_one", "column_shape"], ["ones"]),
        h.make_node("Concat", ["moved", "ones"], ["last"], axis=1),
        h.make_node("ReduceSum", ["x", "axis_1"], ["sum_x"], keepdims=0),
        h.make_node("Gather", ["recurrent", "i0"], ["a"], axis=0),
        h.make_node("Gather", ["recurrent", "i1"], ["b"], axis=0),
        h.make_node("Sub", ["sum_x", "a"], ["new_a"]),
        h.make_node("Mul", ["a", "f2"], ["a_2"]),
        h.make_node("Add", ["b", "a_2"], ["new_b"]),
        h.make_node("Unsqueeze", ["new_a", "axis_0"], ["new_a_2d"]),
        h.make_node("Unsqueeze", ["new_b", "axis_0"], ["new_b_2d"]),
        h.make_node("Concat", ["new_a_2d", "new_b_2d"], ["replaced"], axis=0),
        h.make_node("ReduceSum", ["growing", "axis_1"], ["t1"], keepdims=0),
        h.make_node("Less", ["slots", "length"], ["is_held"]),
        h.make_node("Where", ["is_held", "buffer", "f0"], ["held"]),
        h.make_node("ReduceSum", ["held", "axis_1"], ["s2"], keepdims=0),
        h.make_node("Mul", ["s2", "f2"], ["t2"]),
        h.make_node("ReduceSum", ["window", "axis_1"], ["s3"], keepdims=0),
        h.make_node("Mul", ["s3", "f3"], ["t3"]),
        h.make_node("Mul", ["a", "f5"], ["t4"]),
        h.make_node("Mul", ["b", "f7"], ["t5"]),
        h.make_node("Cast", ["length"], ["length_f"], to=T.FLOAT),
        h.make_node("Mul", ["length_f", "f11"], ["t6"]),
        h.make_node("Cast", ["taken"], ["taken_f"], to=T.FLOAT),
        h.make_node("Mul", ["taken_f", "f13"], ["t7"]),
        h.make_node("Sum", [f"t{n}" for n in range(1, 8)], ["before"]),
        h.make_node("Unsqueeze", ["before", "axis_1"], ["before_2d"]),
        h.make_node("Add", ["before_2d", "order_f"], ["y"]),
    ]
    used = {name for node in nodes for name in node.input}
    save("toy_mixed", nodes, inputs, outputs, [c for c in constants if c.name in used])


def toy_encoder() -> None:
    """code [2] = the sums of both halves of image [4], scale [1] = its mean."""
    nodes = [
        h.make_node("MatMul", ["image", "halves"], ["code"]),
        h.make_node("ReduceMean", ["image", "last"], ["scale"], keepdims=1),
    ]
    constants = [const("halves", [[1, 0], [1, 0], [0, 1], [0, 1]], "float32"), const("last", [1])]
    outputs = [
        h.make_tensor_value_info("code", T.FLOAT, ["batch", 2]),
        h.make_tensor_value_info("scale", T.FLOAT, ["batch", 1]),
    ]
    save("toy_encoder", nodes, [h.make_tensor_value_info("image", T.FLOAT, ["batch", 4])], outputs, constants)


def toy_loop() -> None:
    """code_next = code / 2 + scale, and gap, how far that is from code."""
    inputs = [
        h.make_tensor_value_info("code", T.FLOAT, ["batch", 2]),
        h.make_tensor_value_info("scale", T.FLOAT, ["batch", 1]),
    ]
    nodes = [
        h.make_node("Mul", ["code", "half"], ["halved"]),
        h.make_node("Add", ["halved", "scale"], ["code_next"]),
        h.make_node("Sub", ["code_next", "code"], ["gap"]),
    ]
    outputs = [h.make_tensor_value_info(name, T.FLOAT, ["batch", 2]) for name in ("code_next", "gap")]
    save("toy_loop", nodes, inputs, outputs, [const("half", 0.5, "float32")])


def toy_decoder() -> None:
    """picture [2] = code_next + shift, label = which of both is larger."""
    inputs = [
        h.make_tensor_value_info("code_next", T.FLOAT, ["batch", 2]),
        h.make_tensor_value_info("shift", T.FLOAT, ["batch", 1]),
    ]
    nodes = [
        h.make_node("Add", ["code_next", "shift"], ["picture"]),
        h.make_node("ArgMax", ["picture"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [
        h.make_tensor_value_info("picture", T.FLOAT, ["batch", 2]),
        h.make_tensor_value_info("label", T.INT64, ["batch"]),
    ]
    save("toy_decoder", nodes, inputs, outputs, [])


if __name__ == "__main__":
    toy_mixed()
    toy_lm("growing")
    toy_lm("buffer")
    toy_lm("elastic")
    toy_unet()
    toy_gan_external()
    toy_encoder()
    toy_loop()
    toy_decoder()

"""Graphs are read backwards: who made a value, what is known of it, who else reads it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from aigc_export.graphs.passes.decoder.pattern import (
    constant_of,
    equal_to,
    is_closed,
    made_by,
    permutes,
    reads_with_number,
    scalar_of,
    sizes_known,
)

from .texts import graph, value

MODEL = graph(
    "float[b,3] x => float[b,3] y, float[3,b] t",
    """ more = Add(x, x)
        y = Mul(x, more)
        t = Transpose<perm = [1, 0]>(more)""",
)


def test_a_value_is_made_by_one_kind_of_node() -> None:
    node = made_by(value(MODEL, "more"), "Add")
    assert node is not None
    assert node.outputs[0] is value(MODEL, "more")
    assert made_by(value(MODEL, "more"), "Mul") is None
    assert made_by(value(MODEL, "x"), "Add") is None
    assert made_by(None, "Add") is None


def test_an_operator_of_another_domain_is_none_of_onnx() -> None:
    model = graph("float[b,3] x => float[b,3] y", "y = com.microsoft.Add(x, x)")
    assert made_by(value(model, "y"), "Add") is None


def test_only_constants_have_numbers() -> None:
    model = graph("float[b,3] x => float[b,3] y", "y = Identity(x)")
    assert constant_of(value(model, "x")) is None
    assert constant_of(None) is None
    assert scalar_of(value(model, "x")) is None
    assert not equal_to(value(model, "x"), [0])


def test_a_number_is_found_on_either_side() -> None:
    for body in ("y = Add(x, n)", "y = Add(n, x)"):
        model = with_constant(body, [2.0])
        found = reads_with_number(value(model, "y").producer())
        assert found == (value(model, "x"), 2.0)
    assert reads_with_number(value(with_constant("y = Add(x, n)", [1.0, 2.0, 3.0]), "y").producer()) is None
    assert reads_with_number(None) is None


def with_constant(body: str, numbers: list[float]) -> ir.Model:
    """A graph of x, and of a constant n."""
    model = graph("float[b,3] x, float[k] n => float[b,3] y", body)
    given = model.graph.inputs[1]
    model.graph.inputs.remove(given)
    given.const_value = ir.tensor(np.array(numbers, dtype=np.float32), name="n")
    model.graph.register_initializer(given)
    assert equal_to(given, [int(n) for n in numbers])
    return model


def test_sizes_are_numbers_or_names() -> None:
    assert sizes_known(value(MODEL, "x")) == ("b", 3)
    model = graph("float[b,3] x => float[?,3] y", "y = Identity(x)")
    model.graph.outputs[0].shape = None
    assert sizes_known(model.graph.outputs[0]) is None
    assert sizes_known(None) is None


def test_a_permutation_is_exact() -> None:
    node = value(MODEL, "t").producer()
    assert node is not None
    assert permutes(node, 1, 0)
    assert not permutes(node, 0, 1)


def test_what_others_read_is_no_secret() -> None:
    more, y = (value(MODEL, name).producer() for name in ("more", "y"))
    assert more is not None
    assert y is not None
    assert not is_closed([more, y], [value(MODEL, "y")])
    assert is_closed([y], [value(MODEL, "y")])
    assert not is_closed([y], [])

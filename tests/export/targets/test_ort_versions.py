from __future__ import annotations

import onnx_ir as ir
import pytest

from aigc_export.targets.ort_versions import oldest_version


def graph(op: str, domain: str, **attributes: int) -> ir.Model:
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    made = [ir.AttrInt64(name, number) for name, number in attributes.items()]
    node = ir.Node(domain, op, [value], attributes=made)
    branch = ir.Graph([], node.outputs, nodes=[node])
    condition = ir.Value(name="c", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([1]))
    outer = ir.Node("", "If", [condition], attributes=[ir.AttrGraph("then_branch", branch)])
    return ir.Model(ir.Graph([condition, value], outer.outputs, nodes=[outer], opset_imports={"": 20}), ir_version=10)


@pytest.mark.parametrize(
    ("op", "domain", "bits", "version"),
    [
        ("GatherBlockQuantized", "com.microsoft", 8, "1.23"),
        ("GatherBlockQuantized", "com.microsoft", 4, ""),
        ("GatherBlockQuantized", "my.own", 8, ""),
        ("MatMulNBits", "com.microsoft", 8, ""),
    ],
)
def test_what_asks_for_a_newer_version(op: str, domain: str, bits: int, version: str) -> None:
    assert oldest_version(graph(op, domain, bits=bits)) == version


def test_without_an_attribute() -> None:
    assert oldest_version(graph("GatherBlockQuantized", "com.microsoft")) == ""

"""The engine inspector's JSON, written by hand after NVIDIA's documented fields: it was never read from a device."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aigc_export.errors import PrecisionError
from aigc_export.targets.tensorrt.config import check_settings
from aigc_export.targets.tensorrt.inspector import inspect_engine, parse_inspector
from aigc_export.targets.tensorrt.layers import types_of
from aigc_export.targets.tensorrt.library import Library
from aigc_export.targets.tensorrt.precision import prove, telling
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_runtime.errors import ConfigError, EngineError


def tensor(name: str, text: str) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": [1, 64, 8, 8], "Format/Datatype": text}


CONV = {
    "Name": "conv_a + relu_a",
    "LayerType": "CaskConvolution",
    "Inputs": [tensor("x", "Thirty-two wide channel vectorized row major Int8 format.")],
    "Outputs": [tensor("y", "Thirty-two wide channel vectorized row major Int8 format.")],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 131072},
    "Bias": {"Type": "Float", "Count": 256},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
    "TacticValue": "0x11bde0e1d9f2f35d",
    "StreamId": 0,
    "Metadata": "[ONNX Layer: conv_a]\x1e[ONNX Layer: relu_a]",
}
DECONV = {
    "Name": "up",
    "LayerType": "CaskDeconvolutionV2",
    "Inputs": [tensor("x", "Row major linear FP32")],
    "Outputs": [tensor("y", "Row major linear FP32")],
    "Weights": {"Type": "Float", "Count": 100},
    "Metadata": "[ONNX Layer: up]",
}
GEMM = {
    "Name": "__myl_fc_myl0_3",
    "LayerType": "gemm",
    "Inputs": [tensor("a", "Half"), tensor("b", "Half"), tensor("c", "Float")],
    "Outputs": [tensor("d", "Half")],
    "Metadata": "[ONNX Layer: q]\x1e[ONNX Layer: k]",
}
REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to conv_a + relu_a",
    "LayerType": "Reformat",
    "Inputs": [tensor("x", "Row major linear FP32")],
    "Outputs": [tensor("y", "Thirty-two wide channel vectorized row major Int8 format.")],
    "ParameterType": "Reformat",
    "Origin": "REFORMAT",
    "TacticValue": "0x00000000000003e8",
    "Metadata": "",
}
MYELIN = {
    "Name": "{ForeignNode[attention]}",
    "LayerType": "Myelin",
    "Inputs": [tensor("x", "Row major linear FP16 format"), tensor("y", "Row major linear FP16 format")],
    "Outputs": [tensor("z", "Row major linear FP16 format")],
    "Metadata": "[ONNX Layer: scores]\x1e[ONNX Layer: context]",
}


def document(*layers: object) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["x", "y"]})


def test_layer_types_precisions_and_nodes() -> None:
    found = parse_inspector(document(CONV, DECONV, GEMM, REFORMAT))
    assert [(layer.kind, layer.operands, layer.nodes) for layer in found[:3]] == [
        ("correlation", ("int8", "int8", "fp32"), ("conv_a", "relu_a")),
        ("deconv", ("fp32", "fp32"), ("up",)),
        ("gemm", ("fp16", "fp16", "fp32"), ("q", "k")),
    ]
    assert [layer.product_type for layer in found] == ["int8", "fp32", "fp16", None]
    assert found[3].kind == "Reformat"


def test_the_share_of_the_work() -> None:
    requested = {"conv_a": "int8", "up": "fp32", "q": "fp16", "k": "fp16"}
    macs = {"conv_a": 600, "up": 100, "q": 150, "k": 150}
    found = types_of(parse_inspector(document(REFORMAT, CONV, DECONV, GEMM)), requested)
    assert found == requested
    proof = prove(requested, macs, requested, telling(requested, macs, found))
    assert proof.work == {"int8": 0.6, "fp16": 0.3, "fp32": 0.1}
    assert proof.source == "engine"


def test_an_engine_that_was_built_otherwise_is_refused() -> None:
    requested, macs = {"conv_a": "int8", "scores": "int8"}, {"conv_a": 1, "scores": 999}
    slow = {**CONV, "Inputs": [tensor("x", "Row major linear FP32")], "Weights": {"Type": "Float", "Count": 1}}
    found = types_of(parse_inspector(document(slow, MYELIN)), requested)
    assert found == {"conv_a": "fp32"}
    # However little it says, that contradicts: it is not passed over for what the network says.
    with pytest.raises(PrecisionError, match=r"conv_a asked int8, network int8, built fp32"):
        prove(requested, macs, requested, telling(requested, macs, found))


@pytest.mark.parametrize(
    "layer",
    [
        "conv_a + relu_a",  # an engine of layer names only
        {**CONV, "Inputs": [tensor("x", "N/A due to dynamic shapes")], "Bias": None},
        {**CONV, "Inputs": [tensor("x", "Row major linear FP4 format")], "Weights": {"Type": "FP4"}, "Bias": {}},
        {**MYELIN, "Metadata": "[ONNX Layer: conv_a]"},
        {"Name": "conv_a", "LayerType": "CaskConvolution"},
        {"Name": "conv_a", "LayerType": "CaskConvolution", "Inputs": "x", "Weights": "Int8"},
    ],
)
def test_what_says_nothing_proves_nothing(layer: object) -> None:
    requested, macs = {"conv_a": "int8"}, {"conv_a": 1}
    found = types_of(parse_inspector(document(layer)), requested)
    assert found == {}
    assert telling(requested, macs, found) is None
    assert prove(requested, macs, requested, None).source == "network"


def test_without_metadata_the_names_count() -> None:
    (layer,) = parse_inspector(document({**CONV, "Metadata": ""}))
    assert layer.nodes == ("conv_a", "relu_a")


@pytest.mark.parametrize(
    ("text", "message"), [("", "returned no JSON"), ("[]", "lists no layers"), ('{"Layers": {}}', "lists no layers")]
)
def test_what_is_no_inspector_of_an_engine(text: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        parse_inspector(text)


class FakeTensorRT:
    """The calls of classic TensorRT that an engine is opened and asked by."""

    __name__ = "tensorrt"
    LayerInformationFormat = SimpleNamespace(JSON="json")
    HardwareCompatibilityLevel = SimpleNamespace(NONE=0, AMPERE_PLUS=1)

    def __init__(self, opens: bool = True) -> None:
        self.opens = opens
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inspector = SimpleNamespace(execution_context=None, get_engine_information=self.told)

    def told(self, form: str) -> str:
        assert form == "json"
        assert self.inspector.execution_context is not None  # formats depend on shapes
        return document(CONV)

    def Runtime(self, logger: object) -> Any:
        assert logger == "logger"
        context = SimpleNamespace(set_input_shape=self.shapes.__setitem__)
        engine = SimpleNamespace(
            create_execution_context=lambda: context, create_engine_inspector=lambda: self.inspector
        )
        return SimpleNamespace(deserialize_cuda_engine=lambda data: engine if self.opens and data == b"plan" else None)


def classic(module: Any) -> Library:
    return Library(flavor="tensorrt", module=module, version="10.3.0", cuda_major=12)


def test_an_engine_is_opened_with_shapes_and_asked(tmp_path: Path) -> None:
    (tmp_path / "engine").write_bytes(b"plan")
    module = FakeTensorRT()
    text = inspect_engine(classic(module), "logger", tmp_path / "engine", {"x": [2, 4, 8, 8]})
    assert parse_inspector(text)[0].product_type == "int8"
    assert module.shapes == {"x": (2, 4, 8, 8)}
    with pytest.raises(EngineError, match="cannot open the engine that it has built"):
        inspect_engine(classic(FakeTensorRT(opens=False)), "logger", tmp_path / "engine", {})


def test_hardware_compatibility_that_a_version_has_not() -> None:
    library = classic(FakeTensorRT())
    check_settings(library, BuildSettings(hardware_compatibility="ampere_plus"))
    with pytest.raises(ConfigError, match="has no hardware compatibility level SAME_COMPUTE_CAPABILITY"):
        check_settings(library, BuildSettings(hardware_compatibility="same_compute_capability"))
    with pytest.raises(ConfigError, match="level AMPERE_PLUS"):
        check_settings(classic(SimpleNamespace()), BuildSettings(hardware_compatibility="ampere_plus"))

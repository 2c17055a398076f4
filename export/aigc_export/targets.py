"""Where a graph can go: the engine, the precisions it can run, the passes and the operator set."""

from __future__ import annotations

from dataclasses import dataclass

from aigc_runtime.errors import UnknownNameError

__all__ = ["TARGETS", "Target", "get_target"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target.

    Attributes:
        name: as on the command line; also the key of its passes.
        engine: kind of engine in the manifest.
        precisions: what it can run.
        opset: ONNX operator set that its graphs use.
        summary: one line.
    """

    name: str
    engine: str
    precisions: tuple[str, ...]
    opset: int
    summary: str


TARGETS: dict[str, Target] = {
    "ort-cpu": Target(
        name="ort-cpu",
        engine="onnxruntime",
        precisions=("fp32", "fp16", "bf16", "int8", "fp8", "int8-weight", "int4", "auto"),
        opset=20,
        summary="ONNX Runtime on a CPU",
    ),
    "tensorrt-rtx": Target(
        name="tensorrt-rtx",
        engine="tensorrt-rtx",
        precisions=("fp32", "fp16", "bf16", "int8", "fp8"),
        opset=20,
        summary="TensorRT-RTX, built here for named devices",
    ),
    "tensorrt": Target(
        name="tensorrt",
        engine="tensorrt",
        precisions=("fp32", "fp16", "bf16", "int8", "fp8"),
        opset=20,
        summary="TensorRT 10.3 or later, built on the device",
    ),
}


def get_target(name: str) -> Target:
    """The target of that name.

    Raises:
        UnknownNameError: lists the valid names and the nearest one.
    """
    if name not in TARGETS:
        raise UnknownNameError("target", name, TARGETS)
    return TARGETS[name]

"""The targets of an export: the engine, the precisions it can run, the passes and the operator set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["TARGETS", "Target", "check_precision", "get_target"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """An engine on a device, and the precisions that it runs.

    Attributes:
        name: as on the command line; also the key of its passes.
        engine: kind of engine in the manifest.
        precisions: what it can run.
        opset: ONNX operator set that its graphs use.
        summary: one line.
        provider: of ONNX Runtime, for an engine that is run by it.
        refused: precision that others run -> why this one does not, and what does.
    """

    name: str
    engine: str
    precisions: tuple[str, ...]
    opset: int
    summary: str
    provider: str = "cpu"
    refused: Mapping[str, str] = field(default_factory=dict)


_8_BITS = "8-bit graphs are served by --target tensorrt-rtx or tensorrt, and by ort-cpu on a CPU"
# Kernels of the CUDA provider: docs/OperatorKernels.md of ONNX Runtime.
_NOT_ON_CUDA = {
    "bf16": "ONNX Runtime's CUDA provider has no bf16 convolution before opset 22, and would run it on the CPU: use "
    "fp16, or --target tensorrt-rtx",
    "int8": f"ONNX Runtime's CUDA provider restores 8-bit numbers and multiplies floats: {_8_BITS}",
    "fp8": "ONNX Runtime's CUDA provider restores 8-bit numbers and multiplies floats: fp8 graphs are served by "
    "--target tensorrt-rtx",
    "int8-weight": f"ONNX Runtime's CUDA provider restores the weights for every run, and gains nothing: {_8_BITS}",
    "int4": "ONNX Runtime's CUDA provider multiplies 4-bit weights by kernels that this line has not been proven on: "
    "use --target ort-cpu",
    "auto": "a search times its candidates where they run, and was never tried on a GPU: use --target ort-cpu",
}

_WEIGHTS_ALONE = "weights alone in few bits were not tried on TensorRT: use int8 or fp8, or --target ort-cpu"
_NOT_ON_TENSORRT = {
    "auto": "a search runs and times its candidates, and such an engine does not run here: use --target ort-cpu",
    "int8-weight": _WEIGHTS_ALONE,
    "int4": _WEIGHTS_ALONE,
}

TARGETS: dict[str, Target] = {
    "ort-cpu": Target(
        name="ort-cpu",
        engine="onnxruntime",
        precisions=("fp32", "fp16", "bf16", "int8", "fp8", "int8-weight", "int4", "auto"),
        opset=20,
        summary="ONNX Runtime on a CPU",
    ),
    "ort-cuda": Target(
        name="ort-cuda",
        engine="onnxruntime",
        precisions=("fp32", "fp16"),
        opset=20,
        summary="ONNX Runtime on an NVIDIA GPU",
        provider="cuda",
        refused=_NOT_ON_CUDA,
    ),
    "tensorrt-rtx": Target(
        name="tensorrt-rtx",
        engine="tensorrt-rtx",
        precisions=("fp32", "fp16", "bf16", "int8", "fp8"),
        opset=20,
        summary="TensorRT-RTX, built here for named devices",
        refused=_NOT_ON_TENSORRT,
    ),
    "tensorrt": Target(
        name="tensorrt",
        engine="tensorrt",
        precisions=("fp32", "fp16", "bf16", "int8", "fp8"),
        opset=20,
        summary="TensorRT 10.3 or later, built on the device",
        refused=_NOT_ON_TENSORRT,
    ),
}


def get_target(name: str) -> Target:
    """Look up a target by its name.

    Raises:
        UnknownNameError: lists the valid names and the nearest one.
    """
    if name not in TARGETS:
        raise UnknownNameError("target", name, TARGETS)
    return TARGETS[name]


def check_precision(target: Target, precision: str) -> None:
    """Check that a target runs a precision.

    Raises:
        ConfigError: another target does; says why this one does not.
        UnknownNameError: no target does; lists those of this one and the nearest.
    """
    if precision in target.precisions:
        return
    if precision in target.refused:
        raise ConfigError(
            f"target {target.name!r} does not run {precision}",
            hint=f"{target.refused[precision]}\nvalid here: {', '.join(target.precisions)}",
        )
    raise UnknownNameError(f"precision for target {target.name!r}", precision, target.precisions)

"""The simulation has nothing that the real bindings have not: code that runs on one finds its names on the other."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.backends.trt import cuda as cuda_module
from aigc_runtime.backends.trt.cuda import load_cuda
from aigc_runtime.device.probe import probe_device
from aigc_runtime.errors import EngineError

from . import simulated_tensorrt as simulation
from .simulated_gpu import COUNTED, SimulatedGpu, cudaError_t

SOURCES = sorted(Path(cuda_module.__file__).parent.glob("*.py"))


def test_every_call_of_cuda_is_in_the_real_binding() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    used = set(attributes(ast.parse(Path(cuda_module.__file__).read_text()), "_rt"))
    assert used >= set(COUNTED)
    assert missing(real, used) == []
    assert all(hasattr(SimulatedGpu(), name) for name in used)
    assert missing(real.cudaError_t, cudaError_t.__members__) == []
    assert missing(real.cudaError_t, cuda_module._HINTS) == []
    assert all(int(getattr(real.cudaError_t, name)) == value for name, value in cudaError_t.__members__.items())
    kinds = ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost")
    assert missing(real.cudaMemcpyKind, kinds) == []
    assert missing(real.cudaStreamCaptureMode, ["cudaStreamCaptureModeThreadLocal"]) == []
    assert missing(real, ["cudaMalloc", "cudaNoSuchCall"]) == ["cudaNoSuchCall"], "the check can fail"


def attributes(tree: ast.AST, owner: str) -> list[str]:
    """Names that are looked up on `owner`, or on a field of that name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and owner == getattr(node.value, "attr", getattr(node.value, "id", "")):
            found.append(node.attr)
    return found


def missing(real: Any, names: Any) -> list[str]:
    return [name for name in names if not hasattr(real, name)]


def public(simulated: type) -> set[str]:
    """What a simulated class offers to the code under test: methods, and what its constructor sets."""
    tree = ast.parse(Path(simulation.__file__).read_text())
    names = {name for base in simulated.__mro__[:-1] for name in vars(base)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in {base.__name__ for base in simulated.__mro__}:
            names |= set(attributes(node, "self"))
    return {name for name in names if not name.startswith(("_", "sim_"))}


def test_everything_simulated_is_in_the_real_tensorrt() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    classes = {
        "ICudaEngine": simulation.RtxEngine,
        "IExecutionContext": simulation.Context,
        "IRuntimeConfig": simulation.RuntimeConfig,
        "IRuntimeCache": simulation.RuntimeCache,
        "ILogger": simulation.ILogger,
    }
    for name, simulated in classes.items():
        assert len(public(simulated)) > 0
        assert missing(getattr(real, name), public(simulated)) == [], name
    module = simulation.simulated_tensorrt(SimulatedGpu(), {}, rtx=True)
    assert missing(real, [name for name in vars(module) if not name.startswith("sim_")]) == []
    runtime = {name for base in module.Runtime.__mro__[:-1] for name in vars(base) if not name.startswith("_")}
    assert runtime == {"deserialize_cuda_engine", "get_engine_validity", "engine_header_size"}
    assert missing(real.Runtime, runtime) == []
    for name in ("DataType", "TensorIOMode", "TensorLocation", "EngineValidity", "CudaGraphStrategy",
                 "ExecutionContextAllocationStrategy", "EngineInvalidityDiagnostics"):  # fmt: skip
        assert missing(getattr(real, name), getattr(simulation, name).__members__) == [], name
    assert missing(real.ILogger.Severity, simulation.Severity.__members__) == []


def test_what_the_code_asks_of_the_module_is_simulated() -> None:
    """So that the test before says something about the code."""
    used = {name for source in SOURCES for name in attributes(ast.parse(source.read_text()), "module")}
    module = simulation.simulated_tensorrt(SimulatedGpu(), {}, rtx=True)
    assert used
    assert {name for name in used if not hasattr(module, name)} == set()


def test_a_real_logger_and_allocator_can_be_made() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    from aigc_runtime.backends.trt.library import library_of
    from aigc_runtime.backends.trt.outputs import Asked, make_allocator

    library = library_of(real)
    library.logger.log(real.ILogger.Severity.WARNING, "no error")
    library.logger.log(real.ILogger.Severity.ERROR, "an error")
    assert library.log.take() == "an error"
    assert library_of(real).logger is library.logger
    asked = Asked()
    allocator = make_allocator(real, lambda name, size: 4096, asked)
    assert isinstance(allocator, real.IOutputAllocator)
    assert allocator.reallocate_output_async("y", None, 1, 256, 0) == 4096
    allocator.notify_shape("y", real.Dims([2, 3]))
    assert asked.shapes == {"y": (2, 3)}


def test_real_types_have_the_names_that_are_known() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    from aigc_runtime.backends.trt.types import _TYPES

    assert missing(real.DataType, _TYPES) == []
    assert real.DataType.BF16.name == "BF16"


def test_the_real_cuda_answers_with_a_typed_error_where_there_is_no_device() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    if probe_device().gpus:
        assert load_cuda().device_count() >= 1
        return
    with pytest.raises(EngineError, match=r"cannot find a CUDA device: cudaError(InsufficientDriver|NoDevice) \(.+\)"):
        load_cuda().device_count()

"""The runtime's half of the toy: an engine that numpy interprets, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aigc_runtime.backends.base import Backend, EngineFacts, EngineFiles
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.device.findings import Finding, Preflight
from aigc_runtime.device.probe import Device

KIND = "toy"


@dataclass(frozen=True, kw_only=True)
class ToyBuild:
    """What a manifest says about a toy engine: the operators that it needs, and who speaks."""

    operators: tuple[str, ...]
    greeting: str


def interpret(model: bytes) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Interpret a graph by the numpy code of onnx's reference."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load_model_from_string(model))

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))

    return run


def _open(files: EngineFiles, _threads: int | None) -> Session:
    return ArraySession(interpret(files.read(files.file)), files.interface)


def _check(facts: EngineFacts, _device: Device) -> Preflight:
    found = f"interprets all of {len(facts.build.operators)} operators"
    return Preflight(gpu=None, findings=(Finding(subject="toy", passed=True, found=found),))


TOY = Backend(
    kind=KIND,
    build=ToyBuild,
    open=_open,
    check=_check,
    describe=lambda build: ((build.greeting, ", ".join(build.operators)),),
)

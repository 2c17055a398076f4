"""The kind `tensors`: what a request of a bundle holds, how two results are compared, and what is timed."""

from __future__ import annotations

from collections.abc import Callable, Collection

from aigc_runtime.core.compare import EXACT_DB, compare_arrays
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.kind import Metric, PipelineKind, Request, ResultForm, Results, Verb
from aigc_runtime.pipelines.tensors import TensorsPipeline, TensorsSettings, typical_inputs

__all__ = ["TENSORS"]


def _check_request(pipeline: TensorsPipeline, request: Request, arrays: Collection[str]) -> dict[str, ResultForm]:
    known = ", ".join(pipeline.inputs)
    for name in request:
        if name in pipeline.inputs:
            raise ConfigError(f"request.{name} is in the manifest", hint="an array must be in a .npy file of its own")
        raise ConfigError(f"the reference's request has {name!r}", hint=f"known: {known}, each a .npy file in arrays")
    if unknown := sorted(set(arrays) - pipeline.inputs.keys()):
        raise ConfigError(f"the reference's request has {unknown[0]!r}", hint=f"known: {known}")
    if missing := sorted(pipeline.inputs.keys() - set(arrays)):
        raise ConfigError(f"the reference's request has no {missing[0]!r}", hint=f"known: {known}")
    return {
        name: ResultForm(
            what=f"the tensor {name!r}",
            dtype=spec.dtype,
            shape=tuple(size if isinstance(size, int) else None for size in spec.shape),
        )
        for name, spec in pipeline.outputs.items()
    }


def _check_arrays(pipeline: TensorsPipeline, arrays: Results) -> None:
    pipeline.check_inputs(arrays)


def _replay(pipeline: TensorsPipeline, request: Request) -> dict[str, Array]:
    return pipeline.generate(request)


def _least_sqnr(reference: Results, actual: Results) -> float:
    """The signal-to-noise ratio of the worst output, in dB."""
    if not reference or reference.keys() != actual.keys():
        return -EXACT_DB
    errors = [compare_arrays(array, actual[name]) for name, array in reference.items()]
    return min(-EXACT_DB if found.problem else found.sqnr_db for found in errors)


def _step(pipeline: TensorsPipeline) -> Callable[[], object]:
    """A run of every stage."""
    inputs = typical_inputs(pipeline)
    return lambda: pipeline.generate(inputs)


def _units(_pipeline: TensorsPipeline) -> tuple[str, int]:
    return "run", 1


def _generate_once(pipeline: TensorsPipeline) -> object:
    return pipeline.generate(typical_inputs(pipeline))


def _verb() -> Verb:
    from aigc_runtime.pipelines.tensors_verb import TENSORS_VERB

    return TENSORS_VERB


TENSORS = PipelineKind(
    name="tensors",
    settings=TensorsSettings,
    open=lambda program, roles, settings: TensorsPipeline(program, settings, roles),
    check_request=_check_request,
    check_arrays=_check_arrays,
    replay=_replay,
    metric=Metric(name="output_sqnr_db", measure=_least_sqnr, limit="min_sqnr_db"),
    step=_step,
    units=_units,
    generate_once=_generate_once,
    verb=_verb,
)
"""Runs engines in a row: arrays go in, arrays come out."""

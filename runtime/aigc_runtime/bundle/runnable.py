"""Whether a manifest is that of a bundle that can be run: engines, settings and request fit each other.

All of it is known from the manifest alone, and found out before any engine is loaded or memory is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.bundle.manifest_checks import PRECISIONS
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.io.npy import MAX_HEADER_BYTES
from aigc_runtime.pipelines import AnyPipeline, get_kind, make_pipeline
from aigc_runtime.pipelines.kind import ResultForm

__all__ = ["check_runnable", "idle_pipeline", "result_forms"]


def check_runnable(manifest: Manifest) -> None:
    """Refuse a manifest whose pipeline could not be driven, or whose reference could not be replayed.

    Raises:
        AigcError: says which field and why.
    """
    if manifest.precision not in PRECISIONS:
        raise UnknownNameError("precision", manifest.precision, PRECISIONS)
    kind = get_kind(manifest.pipeline.kind)
    if lost := sorted(set(kind.assets(manifest.pipeline.settings)) - set(manifest.assets)):
        raise ConfigError(f"assets lacks {lost[0]!r}, which the pipeline reads", hint="export the model again")
    if kind.needs_text_vectors(manifest.pipeline.settings) != (manifest.reference.text is not None):
        raise ConfigError(
            f"reference.text is {manifest.reference.text!r}",
            hint="a file where the pipeline has a tokenizer of a file or a chat template, else null: what is not "
            "compared is not proven",
        )
    pipeline = idle_pipeline(manifest)
    kind.check(pipeline)
    if manifest.tolerances.limits().get(kind.metric.limit) is None:
        raise ConfigError(
            f"tolerances.{kind.metric.limit} is null, and {kind.metric.name} of the generation is held against it",
            hint="a check without a limit cannot fail",
        )
    forms = result_forms(manifest, pipeline)
    outputs = manifest.reference.generation.outputs
    if outputs.keys() != forms.keys():
        raise ConfigError(
            f"reference.generation.outputs names {sorted(outputs)}", hint=f"the request gives {sorted(forms)}"
        )
    sizes = {info.path: info.size for info in manifest.files}
    for name, form in forms.items():
        if outputs[name] in sizes:
            _check_size(outputs[name], sizes[outputs[name]], form)


def idle_pipeline(manifest: Manifest) -> AnyPipeline:
    """The pipeline of a manifest over sessions that say what they take and give, and cannot run.

    Raises:
        AigcError: the pipeline could not drive the engines.
    """
    sessions = {name: ArraySession(_never, interface) for name, interface in manifest.interfaces.items()}
    program = OpenProgram(sessions, manifest.state_names, assets=None)
    return make_pipeline(program, manifest.pipeline.settings, manifest.pipeline.engines)


def result_forms(manifest: Manifest, pipeline: AnyPipeline) -> Mapping[str, ResultForm]:
    """What the reference's request gives, as far as it is known before it is computed.

    Raises:
        AigcError: the pipeline would not take the request, or it asks for too much.
    """
    generation = manifest.reference.generation
    return get_kind(manifest.pipeline.kind).check_request(pipeline, generation.request, generation.arrays)


def _never(_values: Mapping[str, Array]) -> NoReturn:
    """Stand for an engine that is asked what it takes and gives, and is never run."""
    raise NotImplementedError


def _check_size(file: str, size: int, form: ResultForm) -> None:
    """What was made is there: a request for more, or for other sizes, is refused before any of it is computed."""
    most = None if form.max_bytes is None else form.max_bytes + 10 + MAX_HEADER_BYTES
    if size <= form.min_bytes or (most is not None and size > most):
        raise ConfigError(
            f"the reference's request asks for {form.what}, {form.min_bytes:,} bytes or more, its result {file!r} has "
            f"{size:,}",
            hint="request and result must be of one size",
        )

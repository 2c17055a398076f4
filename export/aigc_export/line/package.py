"""Assemble a bundle: engine, program, reference and provenance in, manifest and files out."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

import numpy as np

from aigc_export.parity.reference import Case, Generation
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.targets.base import BuiltEngine
from aigc_models.program import Program, Vectors
from aigc_runtime.backends.ort.open import import_onnxruntime
from aigc_runtime.backends.ort.providers import PROVIDERS
from aigc_runtime.bundle.manifest import (
    FORMAT_VERSION,
    EngineInfo,
    EngineInterface,
    Manifest,
    PipelineInfo,
    QualityResult,
    Reference,
    ReferenceCase,
    ReferenceGeneration,
    ReferenceStep,
)
from aigc_runtime.bundle.measured import Measured
from aigc_runtime.bundle.origin import Origin
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.io.npy import write_npy
from aigc_runtime.proof.verify import OwnLimits

__all__ = ["SOURCE_DATE_EPOCH", "creation_time", "make_bundle", "tool_versions"]

SOURCE_DATE_EPOCH = "SOURCE_DATE_EPOCH"

TEXT_VECTORS = "ref.text.json"
"""The name of the file of texts and chats in a bundle."""
CARRIED = "carried"
"""The carried state of a bundle of one engine."""

_TOOLS = ("aigc-export", "torch", "onnx", "onnxscript", "onnxslim", "numpy")


def make_bundle(
    program: Program,
    recipe: ExportRecipe,
    engines: Mapping[str, BuiltEngine],
    *,
    cases: Sequence[Case],
    generation: Generation,
    quality: Sequence[QualityResult],
    measured: Measured | None = None,
    own_limits: OwnLimits = MappingProxyType({}),
    extra: Mapping[str, bytes] | None = None,
    provenance: Mapping[str, str] | None = None,
    origin: Origin | None = None,
    vectors: Vectors | None = None,
) -> tuple[Manifest, dict[str, bytes | Path]]:
    """Make the manifest (without its list of files) and the files of a bundle.

    Args:
        program: the model.
        recipe: how it was exported.
        engines: part -> the files of its engine.
        cases: PyTorch's arrays.
        generation: PyTorch's generation.
        quality: measured on both sides.
        measured: of the engines beside PyTorch.
        own_limits: of outputs that are held to others than the recipe's.
        extra: further files, such as the quantization plan.
        provenance: further facts.
        origin: what it was exported from.
        vectors: what the pipeline must give exactly beside the arrays.
    """
    files: dict[str, bytes | Path] = dict(extra or {})
    for engine in engines.values():
        files |= engine.files
    if taken := sorted(files.keys() & program.assets.keys()):
        raise ConfigError(f"the program {program.name!r} has an asset {taken[0]!r}", hint="the bundle needs that name")
    files |= program.assets
    if vectors is not None:
        files[TEXT_VECTORS] = vectors.data
    stored = tuple(
        ReferenceCase(
            name=case.name,
            steps=tuple(
                ReferenceStep(
                    engine=step.engine,
                    inputs=_store(files, f"ref.{case.name}.{i}.in", step.inputs),
                    outputs=_store(files, f"ref.{case.name}.{i}.out", step.outputs),
                    min_sqnr_db={
                        name: limit
                        for name in step.outputs
                        if (own := own_limits.get((case.name, i, name))) and (limit := own.min_sqnr_db)
                    },
                )
                for i, step in enumerate(case.steps)
            ),
        )
        for case in cases
    )
    arrays = {name: value for name, value in generation.request.items() if isinstance(value, np.ndarray)}
    stored_generation = ReferenceGeneration(
        request={name: value for name, value in generation.request.items() if name not in arrays},
        arrays=_store(files, "ref.generation.in", arrays),
        outputs=_store(files, "ref.generation.out", generation.outputs),
    )
    states = {name: _state_name(program, name) for name, engine in engines.items() if engine.interface.state}
    infos = {name: _engine_info(engine, states.get(name)) for name, engine in engines.items()}
    manifest = Manifest(
        format="aigc-bundle",
        format_version=FORMAT_VERSION,
        name=program.name,
        target=recipe.target.name,
        precision=recipe.stored_precision,
        engines=infos,
        state={state: engines[name].interface.state for name, state in states.items()},
        files=(),
        shared_files=_shared_files(engines),
        assets=tuple(sorted(program.assets)),
        pipeline=PipelineInfo.of(program.settings, program.engines),
        tolerances=recipe.tolerances,
        reference=Reference(cases=stored, generation=stored_generation, text=None if vectors is None else TEXT_VECTORS),
        quality=tuple(quality),
        model_config=dict(program.model_config),
        provenance={**tool_versions(program), **_recorder(vectors), **(provenance or {})},
        origin=origin,
        measured=measured,
    )
    return manifest, files


def _recorder(vectors: Vectors | None) -> dict[str, str]:
    return {} if vectors is None else {"text_recorded_by": vectors.made_by}


def _shared_files(engines: Mapping[str, BuiltEngine]) -> tuple[str, ...]:
    """Names of the files that several engines read."""
    names = [name for engine in engines.values() for name in engine.files]
    return tuple(sorted({name for name in names if names.count(name) > 1}))


def _state_name(program: Program, part: str) -> str:
    """The name of the state that a part carries: its own, unless it shares one."""
    return program.states.get(part, CARRIED if len(program.parts) == 1 else part)


def _engine_info(engine: BuiltEngine, state: str | None) -> EngineInfo:
    return EngineInfo(
        kind=engine.kind,
        file=engine.file,
        interface=EngineInterface(
            inputs=engine.interface.inputs,
            outputs=engine.interface.outputs,
            dims=engine.interface.dims,
            state=state,
        ),
        build=engine.build,
        proof=engine.proof,
    )


def _store(files: dict[str, bytes | Path], prefix: str, arrays: dict[str, Array]) -> dict[str, str]:
    names = {name: f"{prefix}.{name}.npy" for name in arrays}
    files.update({names[name]: write_npy(array) for name, array in arrays.items()})
    return names


def creation_time() -> datetime.datetime:
    """Return the time now, or SOURCE_DATE_EPOCH: then the same input gives the same bytes (reproducible-builds.org).

    Raises:
        ConfigError: the variable holds no time.
    """
    value = os.environ.get(SOURCE_DATE_EPOCH)
    if value is None:
        return datetime.datetime.now(datetime.timezone.utc)
    try:
        if not value.isascii() or not value.isdigit():
            raise ValueError
        return datetime.datetime.fromtimestamp(int(value), datetime.timezone.utc)
    except (ValueError, OverflowError, OSError) as err:
        raise ConfigError(
            f"{SOURCE_DATE_EPOCH} is {value!r}",
            hint="it holds whole seconds since 1970, such as 1767225600; or unset it",
        ) from err


def tool_versions(program: Program) -> dict[str, str]:
    """List what it takes to make the bundle again: tool versions, the checkpoint's digest and the time."""
    return {
        "checkpoint_sha256": program.weights_sha256,
        **_adapters(program),
        "created_utc": creation_time().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: metadata.version(name) for name in _TOOLS},
        **_onnxruntime(),
    }


def _adapters(program: Program) -> dict[str, str]:
    """Name the digests of what was merged into the weights."""
    found = () if program.checkpoint is None else program.checkpoint.adapters
    return {"adapters_sha256": " ".join(digest for _, digest in found)} if found else {}


def _onnxruntime() -> dict[str, str]:
    """Name the imported version of ONNX Runtime and the packages it may come from: two bring the same module."""
    found = {"onnxruntime": str(import_onnxruntime().__version__)}
    for name in PROVIDERS["cpu"].packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.setdefault(name, metadata.version(name))
    return found

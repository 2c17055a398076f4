"""Compare two bundles of one model, such as fp32 and int8: tensors, pictures, quality, size and speed.

No limit is checked here, and PyTorch is not needed: the first bundle is the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aigc_export.line.bundle_files import read_plan
from aigc_export.line.origin import find_evaluation, kept_text
from aigc_export.recipes.recipe import check_quality_samples
from aigc_export.tools.timing import SideBySide, time_side_by_side
from aigc_export.workloads import Workload, get_workload
from aigc_export.workloads.base import EvaluationFacts
from aigc_export.workloads.evaluate import make_evaluator
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import Scores
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.bundle.reference_arrays import read_request
from aigc_runtime.core.compare import TensorErrors, compare_arrays
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.io.png import image_grid
from aigc_runtime.opening import open_program
from aigc_runtime.pipelines import get_kind, make_pipeline
from aigc_runtime.pipelines.replay import run_request

__all__ = ["BundleFacts", "Comparison", "Picture", "TensorGap", "check_comparable", "compare_bundles", "picture_grid"]

MAX_AMPLIFICATION = 2**16


@dataclass(frozen=True, kw_only=True)
class BundleFacts:
    """Facts of a bundle, from its manifest.

    Attributes:
        path: its folder.
        precision: of its weights and arithmetic.
        target: where it runs.
        size_bytes: of all files but the manifest.
        engine_bytes: of the engine, its weights among it.
        plan: precision -> number of operators, by its quantization plan; empty without one.
        checkpoint_sha256: of the weights file that it was made from.
        model_sha256: of the model that it was made from, weights and config.json; empty where the manifest has none.
    """

    path: str
    precision: str
    target: str
    size_bytes: int
    engine_bytes: int
    plan: dict[str, int]
    checkpoint_sha256: str
    model_sha256: str


@dataclass(frozen=True, kw_only=True)
class TensorGap:
    """The difference of the second bundle's output from the first's, at the worst step of a reference case."""

    case: str
    output: str
    errors: TensorErrors


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Outputs of both bundles for one request and seed.

    Attributes:
        metric: `token_agreement` or `psnr_db`.
        value: measured.
        first: the first bundle's result: tokens, or images [N, C, H, W] in [-1, 1].
        second: the other's.
    """

    metric: str
    value: float
    first: Array
    second: Array


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of comparing two bundles.

    Attributes:
        name: of the model.
        first: the reference.
        second: what is compared with it.
        tensors: on the first's reference cases.
        picture: one generation.
        scores: paired measures, and the model's own metrics; `reference` is the first, `bundle` the second.
        timing: of one step at batch 1; `reference_ms` is the first's, `candidate_ms` the second's.
        threads: that both had.
    """

    name: str
    first: BundleFacts
    second: BundleFacts
    tensors: tuple[TensorGap, ...]
    picture: Picture
    scores: Scores
    timing: SideBySide
    threads: int


WEIGHT_BYTES = 4
"""Of a number in fp32; the size of lower precisions is taken for fewer parameters."""


def check_comparable(first: Manifest, second: Manifest) -> None:
    """Check that two bundles do the same thing.

    Raises:
        InputError: names what differs, with both values.
    """
    for what, a, b in _traits(first, second):
        if a == b:
            continue
        first_value, second_value = _difference(a, b)
        raise InputError(
            f"the two bundles differ in {what!r}: {first_value} and {second_value}",
            hint="compare two exports of one model, with the same options",
        )


def _difference(a: Any, b: Any) -> tuple[Any, Any]:
    """The first entries that differ, or where the numbers of entries do, their names."""
    if isinstance(a, tuple) and len(a) == len(b):
        return next((x, y) for x, y in zip(a, b, strict=True) if x != y)
    if isinstance(a, tuple):
        return [getattr(x, "name", None) or x.input for x in a], [getattr(x, "name", None) or x.input for x in b]
    return a, b


def _traits(first: Manifest, second: Manifest) -> Iterator[tuple[str, Any, Any]]:
    """What two bundles must have in common: name and both values."""
    yield "name", first.name, second.name
    yield "kind", first.pipeline.kind, second.pipeline.kind
    yield "pipeline", first.pipeline, second.pipeline
    yield "engines", list(first.engines), list(second.engines)
    for engine, interface in first.interfaces.items():
        for what in ("inputs", "outputs", "state", "dims"):
            yield what, getattr(interface, what), getattr(second.interfaces[engine], what)


def compare_bundles(
    first: Bundle,
    second: Bundle,
    *,
    quality_samples: int | None = None,
    eval_data: Path | str | None = None,
    seed: int = 1,
    threads: int | None = None,
    rounds: int = 5,
    runs: int = 30,
) -> Comparison:
    """Measure the second bundle beside the first.

    Args:
        first: the reference.
        second: another export of the same model.
        quality_samples: windows of text or images; 0 leaves quality out, None takes 200, of a large language model
            fewer.
        eval_data: the user's own text to evaluate on; None takes what the first's export used, where it is
            found, else the built-in text.
        seed: of the generation and of the samples.
        threads: of both engines; None takes every processor.
        rounds: how often the timing alternates.
        runs: steps per round and side.

    Raises:
        InputError: bundles of different models or interfaces, or a number of samples that measures nothing.
        EngineError: an engine does not load or run.
    """
    from aigc_runtime.backends.threads import available_threads

    check_quality_samples(quality_samples)
    check_comparable(first.manifest, second.manifest)
    pipeline, count = first.manifest.pipeline, threads or available_threads()
    workload = get_workload(pipeline.kind)
    with open_program(first, threads=count) as a, open_program(second, threads=count) as b:
        return Comparison(
            name=first.manifest.name,
            first=_facts(first),
            second=_facts(second),
            tensors=tuple(_gaps(first, a, b)),
            picture=_picture(first, a, b, seed),
            scores=make_evaluator(
                workload,
                a,
                pipeline.settings,
                evaluation=_evaluation(workload, first, eval_data),
                samples=quality_samples,
                parameters=_facts(first).engine_bytes // WEIGHT_BYTES,
                seed=seed,
                roles=pipeline.engines,
            )(b),
            timing=time_side_by_side(a, b, pipeline.settings, pipeline.engines, rounds=rounds, runs=runs),
            threads=count,
        )


def _evaluation(workload: Workload, bundle: Bundle, eval_data: Path | str | None) -> Evaluation:
    """Find the evaluation of a bundle's export without its weights."""
    manifest = bundle.manifest
    kept, held_out = kept_text(manifest)
    facts = EvaluationFacts(
        kept=kept,
        held_out=held_out,
        # Only the export knew which classes a model of images has, and measured its own metric where that fits.
        measured_on=next((result.data for result in manifest.quality), ""),
        assets=bundle.assets,
        examples={name: value for name, value in read_request(bundle).items() if isinstance(value, np.ndarray)},
    )

    def evaluate(path: Path | str | None) -> Evaluation:
        return workload.evaluation(manifest.pipeline.settings, replace(facts, eval_data=path))

    return find_evaluation(manifest, evaluate, eval_data)[0]


def _facts(bundle: Bundle) -> BundleFacts:
    manifest = bundle.manifest
    files = {info.path: info.size for info in manifest.files}
    plan = read_plan(bundle)
    return BundleFacts(
        path=str(bundle.path),
        precision=manifest.precision,
        target=manifest.target,
        size_bytes=bundle.size_bytes,
        # Many weights lie beside the graph, as `model.onnx.data`.
        engine_bytes=sum(size for name, size in files.items() if _is_engine(name, manifest)),
        plan={} if plan is None else dict(sorted(plan.counts().items())),
        checkpoint_sha256=manifest.provenance.get("checkpoint_sha256", ""),
        model_sha256="" if manifest.origin is None else manifest.origin.model_sha256,
    )


def _is_engine(file: str, manifest: Manifest) -> bool:
    return file in manifest.shared_files or any(file.startswith(engine.file) for engine in manifest.engines.values())


def _gaps(bundle: Bundle, a: OpenProgram, b: OpenProgram) -> Iterator[TensorGap]:
    for case in bundle.manifest.reference.cases:
        steps = [(step.engine, {n: bundle.array(file) for n, file in step.inputs.items()}) for step in case.steps]
        states = a.new_state(), b.new_state()
        worst: dict[str, TensorErrors] = {}
        for engine, feeds in steps:
            ours, theirs = a.run(engine, feeds, states[0]), b.run(engine, feeds, states[1])
            for output, reference in ours.items():
                errors = compare_arrays(reference, theirs[output])
                # What cannot be compared at all is the worst there is.
                if output not in worst or (not errors.problem, errors.sqnr_db) < (
                    not worst[output].problem,
                    worst[output].sqnr_db,
                ):
                    worst[output] = errors
        for output, errors in worst.items():
            yield TensorGap(case=case.name, output=output, errors=errors)


def _picture(bundle: Bundle, a: OpenProgram, b: OpenProgram, seed: int) -> Picture:
    pipeline, request = bundle.manifest.pipeline, dict(read_request(bundle))
    if "seed" in request:
        request["seed"] = seed
    first, second = (run_request(make_pipeline(p, pipeline.settings, pipeline.engines), request) for p in (a, b))
    metric = get_kind(pipeline.kind).metric
    arrays = [next(iter(results.values())) for results in (first, second)]
    return Picture(metric=metric.name, value=metric.measure(first, second), first=arrays[0], second=arrays[1])


def picture_grid(picture: Picture) -> tuple[Array, int]:
    """The first bundle's images over the second's over their difference, amplified; gray is none.

    Returns:
        The picture, [height, width] or [height, width, 3] uint8, and the amplification: the largest power of two that
        keeps every difference within the range of a pixel.

    Raises:
        ConfigError: what they make are no images.
    """
    if picture.metric != "psnr_db":
        raise ConfigError("these bundles make no images", hint="leave --image out")
    difference = picture.second - picture.first
    largest = float(np.abs(difference).max())
    amplification = 1
    while 0 < 2 * amplification * largest <= 1 and amplification < MAX_AMPLIFICATION:
        amplification *= 2
    rows = np.concatenate([picture.first, picture.second, np.clip(difference * np.float32(amplification), -1, 1)])
    scale = max(1, 96 // picture.first.shape[-1])
    return image_grid(rows, columns=len(picture.first), scale=scale), amplification

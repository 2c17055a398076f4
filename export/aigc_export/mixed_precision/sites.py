"""Measure what every site costs and gains in a pair of precisions: noise, time in the whole graph, bytes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aigc_calibration.errors import PlanError
from aigc_calibration.onnx_function import open_onnx, opened_when_called
from aigc_calibration.search.journal import Journal
from aigc_calibration.search.kinds import site_kinds
from aigc_calibration.search.pair import PrecisionPair
from aigc_calibration.search.probe import make_probe
from aigc_calibration.search.sensitivity import Sensitivity, measure_sites
from aigc_calibration.search.workers import Workers
from aigc_calibration.sites import find_sites
from aigc_export.mixed_precision.candidates import CandidateEvaluator, emit_mix, opened
from aigc_export.prepare.prepare import PreparedModel
from aigc_export.workloads import get_workload
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.progress import Progress
from aigc_runtime.core.tensors import Array
from aigc_runtime.proof.bench import bench_step

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["measure_pair"]


def measure_pair(
    pair: PrecisionPair,
    prepared: PreparedModel,
    workers: Workers,
    evaluator: CandidateEvaluator,
    journal: Journal,
    *,
    progress: Progress | None = None,
) -> tuple[Sensitivity, ...]:
    """Measure noise, milliseconds and bytes of every site of a pair; the noisiest site comes first.

    Args:
        pair: plans in both precisions.
        prepared: the model and its data.
        workers: who measures noise.
        evaluator: times graphs.
        journal: what is known already.
        progress: called after every site whose noise is measured.

    Raises:
        PlanError: no site can run in low precision.
    """
    program, data = prepared.program, prepared.data
    assert data is not None
    low = pair.low.quantized()
    if not low:
        raise PlanError(f"no site of {pair.name} can run in low precision", hint="export fp32")
    feeds = itertools.islice(data.batches(opened_when_called(pair.graph)), get_workload(program.kind).probe_batches)
    probe = make_probe(pair.toggled(), [op.node for op in low], list(feeds), prepared.output_names)
    noise = measure_sites(probe, workers, journal, together=pair.together, progress=progress)
    times = _time_sites(pair, prepared, evaluator)
    sizes = {s.node: s.shape for s in find_sites(pair.graph)}
    total = sum(noise.values()) or 1.0
    found = [
        Sensitivity(
            node=op.node,
            op_type=op.op_type,
            module=op.module,
            noise=noise[op.node],
            share=noise[op.node] / total,
            saved_ms=times[op.node][0],
            saved_ms_error=times[op.node][1],
            saved_bytes=_saved_bytes(sizes[op.node], pair),
        )
        for op in low
    ]
    return tuple(sorted(found, key=lambda s: (-s.noise, s.node)))


def _time_sites(
    pair: PrecisionPair, prepared: PreparedModel, evaluator: CandidateEvaluator
) -> dict[str, tuple[float, float]]:
    """Map node -> (ms that low precision saves, standard error); groups of sites of equal kinds are timed together."""
    lowest = emit_mix(pair, {})
    kinds = site_kinds(pair, _step_feeds(pair.graph, prepared))
    kind_of = {node: kind for kind, nodes in kinds.items() for node in nodes}
    alike: dict[tuple[str, ...], list[str]] = {}
    for group in pair.together:
        alike.setdefault(tuple(kind_of[node] for node in group), []).extend(group)
    found = {}
    for nodes in alike.values():
        slow = emit_mix(pair, dict.fromkeys(nodes, "timed"))
        slower, error = evaluator.slower(lowest, slow)
        found.update(dict.fromkeys(nodes, (slower / len(nodes), error / len(nodes))))
    return found


def _saved_bytes(shape: tuple[int, ...], pair: PrecisionPair) -> int:
    """Compute the bytes that low precision saves: 4 a number against 1, or 1 against a half."""
    return int(math.prod(shape) * (3 if pair.high is None else 0.5)) if shape else 0


def _step_feeds(graph: ir.Model, prepared: PreparedModel) -> dict[str, Array]:
    """Record the feeds of one step of a generation at batch 1."""
    seen: list[dict[str, Array]] = []
    run = open_onnx(graph)

    def record(feeds: Mapping[str, Array]) -> dict[str, Array]:
        seen.append({name: array.copy() for name, array in feeds.items()})
        return run(feeds)

    program = prepared.program
    session = ArraySession(record, prepared.part.interface)
    bench_step(opened(prepared, session), program.settings, program.engines, runs=1, warmup=0)
    return seen[-1]

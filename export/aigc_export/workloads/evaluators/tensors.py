"""Evaluate any module: the signal-to-noise ratio of its outputs on inputs that are like the example."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aigc_export.workloads.base import EvaluatorRequest
from aigc_export.workloads.measures import Measure
from aigc_export.workloads.tensor_inputs import draw_like
from aigc_export.workloads.turns import MAX_TURNS, Turn, run_turns
from aigc_models.evaluation.paired import ProgramEvaluator, Scores
from aigc_runtime.core.compare import EXACT_DB
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.tensors import TensorsPipeline

__all__ = ["OUTPUT_SQNR", "pooled_sqnr", "tensors_evaluator"]

OUTPUT_SQNR = Measure(
    name="output_sqnr_db", written="output_sqnr", unit="decibels", higher_is_better=True, limit="min_sqnr_db"
)
"""10 log10(sum of squares / sum of squared differences) of the worst output, over all samples."""
MAX_KEPT_BYTES = 2**28
"""The reference's outputs that are held in memory: of large ones, fewer samples are drawn."""
MIN_SAMPLES = 2


def tensors_evaluator(request: EvaluatorRequest) -> ProgramEvaluator:
    """Make the evaluator of a program, on draws that are like the evaluation's examples.

    Where state is carried, a few calls go on from each other, so that an error in the state counts.
    """
    rng = np.random.default_rng(request.seed)
    reference = TensorsPipeline(request.reference, request.settings, request.roles)
    generations: list[list[Turn]] = []
    count, kept = 0, 0
    while count < request.samples and (count < MIN_SAMPLES or kept < MAX_KEPT_BYTES):
        first, generation = draw_like(request.evaluation.examples, rng), list[Turn]()
        for turn in run_turns(reference, first, rng, most=min(MAX_TURNS, request.samples - count)):
            generation.append(turn)
            count += 1
            kept += sum(array.nbytes for arrays in turn for array in arrays.values())
            if count >= MIN_SAMPLES and kept >= MAX_KEPT_BYTES:
                break
        generations.append(generation)

    def evaluate(candidate: OpenProgram) -> Scores:
        pipeline = TensorsPipeline(candidate, request.settings, request.roles)
        energies: dict[str, list[tuple[float, float]]] = {}
        for generation in generations:
            state = pipeline.new_state()
            for inputs, outputs in generation:
                actual = pipeline.generate(inputs, state)
                for name, wanted in outputs.items():
                    energies.setdefault(name, []).append(_energies(wanted, actual[name]))
        value, error = min(pooled_sqnr(found) for found in energies.values())
        return Scores(paired=(OUTPUT_SQNR.paired(value, standard_error=error, samples=count),))

    return evaluate


def _energies(reference: Array, actual: Array) -> tuple[float, float]:
    """Sums of squares of the reference and of the difference."""
    a, b = reference.astype(np.float64), actual.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is the worst there is
        return float((a * a).sum()), float(((a - b) ** 2).sum())


def pooled_sqnr(energies: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Compute the ratio of summed energies in dB, and its standard error by the delta method over samples.

    >>> round(pooled_sqnr([(100.0, 1.0), (100.0, 1.0)])[0])
    20
    >>> pooled_sqnr([(1.0, 0.0), (2.0, 0.0)])
    (400.0, 0.0)

    Args:
        energies: signal and noise of every sample.
    """
    signal, noise = np.array(energies, dtype=np.float64).T
    if not np.isfinite(noise).all() or not np.isfinite(signal).all():
        return -EXACT_DB, 0.0
    if noise.sum() == 0:
        return EXACT_DB, 0.0
    if signal.sum() == 0:
        return -EXACT_DB, 0.0
    value = 10 * math.log10(signal.sum() / noise.sum())
    # d(log S - log N) = dS / S - dN / N, and a mean of n samples has the variance of one over n.
    spread = signal / signal.mean() - noise / noise.mean()
    error = 10 / math.log(10) * float(spread.std(ddof=1)) / math.sqrt(len(spread))
    return value, error

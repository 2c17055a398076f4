"""Rewrites of a graph, one per file; every one is checked after it ran.

A pass is a function `(ir.Model) -> ir.Model`, which may change the model that it is given and return it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.bodies import all_nodes, inline_functions
from aigc_calibration.onnx_file import EXTERNAL_THRESHOLD, SharedWeights, save_graph, weight_bytes
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import copy_graph
from aigc_export.errors import CaptureError, PassError
from aigc_export.graphs.passes.batch_norm import fold_batch_norm
from aigc_export.graphs.passes.onnxscript_optimize import onnxscript_optimize
from aigc_export.graphs.passes.rounding import evaluate_in_double, reordered_tolerance, rounding_tolerance
from aigc_export.graphs.passes.slim import slim
from aigc_runtime.core.compare import TensorErrors, Tolerance, compare_arrays, judge
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import OutputError
from aigc_runtime.system.host_memory import give_back_memory
from aigc_runtime.system.temporary_folder import temporary_folder

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CLEAN_UP", "INLINE", "Pass", "PassReport", "check_and_run", "run_passes"]

Pass = Callable[["ir.Model"], "ir.Model"]

INLINE: tuple[str, Pass] = ("inline-functions", inline_functions)
"""Comes first where the model has functions, whatever the target."""
CLEAN_UP: tuple[tuple[str, Pass], ...] = (
    ("onnxscript-optimize", onnxscript_optimize),
    ("onnxslim", slim),
    ("fold-batch-norm", fold_batch_norm),
)
"""(name, pass) in order: what is good for every engine."""

PASS_TOLERANCE = Tolerance(max_over_rms=1e-3, min_cosine=0.999999, min_sqnr_db=90.0)
"""What a rewrite may change, where the rounding of the graph cannot be measured: the order of additions."""


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """The report of one pass.

    Attributes:
        name: of the pass.
        nodes_before: number of nodes, those of bodies and functions included.
        nodes_after: number of nodes.
        seconds: of the pass alone, without its check.
        worst: errors of the output that moved most, beside the graph before the pass.
        rounding_db: the captured graph's own ratio of signal to rounding, of that output, by which the pass was judged;
            None where float64 could not be had.
    """

    name: str
    nodes_before: int
    nodes_after: int
    seconds: float
    worst: TensorErrors
    rounding_db: float | None = None


def run_passes(
    model: ir.Model,
    passes: Sequence[tuple[str, Pass]],
    *,
    feeds: Sequence[Mapping[str, Array]],
    tolerance: Tolerance | None = None,
) -> tuple[ir.Model, list[PassReport]]:
    """Run passes in order; after each, check the graph and compare its outputs.

    The functions of a model that has any are inlined first. Bodies of If, Loop and Scan are rewritten as well, and
    compared by what they make of the outputs.

    A rewritten graph may be a few times as far from its float64 copy as the captured graph is, and no further
    (`rounding`), unless it computes the same in float64: then only its order of operations differs, which a saturated
    softmax multiplies. Where float64 cannot be had, it is compared with the graph before the pass
    (`PASS_TOLERANCE`).

    Args:
        model: the captured graph. It stays as it is: passes rewrite a copy.
        passes: names and functions.
        feeds: sets of arrays for every graph input, of different shapes.
        tolerance: of every output beside the graph before the pass, in place of what its rounding allows.

    Raises:
        CaptureError: the captured graph itself gives NaN or infinity, or something else when it is run again.
        PassError: a pass failed, made the graph invalid, or changed an output; names the pass and the output.
        OutputError: no room for the graph while it is checked.
    """
    with contextlib.ExitStack() as stack:
        shared = None
        if weight_bytes(model) >= EXTERNAL_THRESHOLD:
            shared = SharedWeights(stack.enter_context(temporary_folder("passes")) / "weights")
        return _run_passes(model, passes, feeds, tolerance, partial(check_and_run, shared=shared))


def _run_passes(
    model: ir.Model,
    passes: Sequence[tuple[str, Pass]],
    feeds: Sequence[Mapping[str, Array]],
    tolerance: Tolerance | None,
    run: Callable[[ir.Model, Sequence[Mapping[str, Array]]], list[dict[str, Array]]],
) -> tuple[ir.Model, list[PassReport]]:
    reports: list[PassReport] = []
    # The first feeds once more, by the same session: another one draws the same random numbers.
    *expected, again = run(model, [*feeds, *feeds[:1]]) if feeds else ({},)
    _check_finite(expected)
    _check_repeatable(expected[:1], [again])
    exact = evaluate_in_double(model, feeds) if tolerance is None else None
    own = None if exact is None else _errors(exact, expected)
    model = copy_graph(model)
    for name, rewrite in (INLINE, *passes) if model.functions else passes:
        nodes_before = _count(model)
        started = time.perf_counter()
        try:
            model = rewrite(model)
            seconds = time.perf_counter() - started
            actual = run(model, feeds)
        except OutputError:  # a full disk is no fault of the pass
            raise
        except Exception as err:
            raise PassError(
                f"pass {name!r} failed: {err}", hint="please report it; AIGC_DEBUG=1 shows the whole trace"
            ) from err
        worst = _compare(name, expected, actual, tolerance or PASS_TOLERANCE if own is None else None)
        if exact is not None and own is not None:
            _compare_rounding(name, own, exact, actual, partial(evaluate_in_double, model, feeds))
        reports.append(
            PassReport(
                name=name,
                nodes_before=nodes_before,
                nodes_after=_count(model),
                seconds=seconds,
                worst=worst[1],
                rounding_db=None if own is None else own[worst[0]].sqnr_db,
            )
        )
        expected = actual
    return model, reports


def _count(model: ir.Model) -> int:
    return sum(1 for _ in all_nodes(model))


Place = tuple[int, str]
"""Number of a set of feeds, and an output's name."""


def _errors(
    reference: Sequence[Mapping[str, Array]], actual: Sequence[Mapping[str, Array]]
) -> dict[Place, TensorErrors]:
    return {
        (i, output): compare_arrays(before[output], after[output])
        for i, (before, after) in enumerate(zip(reference, actual, strict=True))
        for output in before
    }


def _check_finite(outputs: Sequence[Mapping[str, Array]]) -> None:
    for one in outputs:
        for output, value in one.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise CaptureError(
                    f"the model's output {output!r} holds NaN or infinity on example inputs",
                    hint="nothing can be compared with that; look for weights or activations beyond fp32's range",
                )


def _check_repeatable(first: Sequence[Mapping[str, Array]], again: Sequence[Mapping[str, Array]]) -> None:
    for (_, output), errors in _errors(first, again[: len(first)]).items():
        if not judge(errors, PASS_TOLERANCE).passed:
            raise CaptureError(
                f"two runs of the captured graph on the same inputs differ in {output!r} ({errors.sqnr_db:.1f} dB)",
                hint="it holds an operator that does not compute the same twice: take its noise as an input, or fix it",
            )


def _compare(
    name: str,
    expected: Sequence[Mapping[str, Array]],
    actual: Sequence[Mapping[str, Array]],
    tolerance: Tolerance | None,
) -> tuple[Place, TensorErrors]:
    """The errors of the output that moved most; without a tolerance, only what cannot be compared is refused."""
    for before, after in zip(expected, actual, strict=True):
        if before.keys() != after.keys():
            raise PassError(f"pass {name!r} changed the outputs from {sorted(before)} to {sorted(after)}")
    errors = _errors(expected, actual)
    for (_, output), found in errors.items():
        reasons = (found.problem,) if tolerance is None else judge(found, tolerance).reasons
        if any(reasons):
            raise _changed(name, output, reasons)
    if not errors:
        raise PassError(f"pass {name!r} was not checked: there were no feeds or no outputs")
    return min(errors.items(), key=lambda item: item[1].sqnr_db)


def _compare_rounding(
    name: str,
    own: Mapping[Place, TensorErrors],
    exact: Sequence[Mapping[str, Array]],
    actual: Sequence[Mapping[str, Array]],
    in_double: Callable[[], Sequence[Mapping[str, Array]] | None],
) -> None:
    doubles: dict[Place, TensorErrors] | None = None
    for place, errors in _errors(exact, actual).items():
        verdict = judge(errors, rounding_tolerance(own[place]))
        if verdict.passed:
            continue
        reordered = judge(errors, reordered_tolerance(own[place])).passed
        if reordered and doubles is None:
            rewritten = in_double()
            doubles = {} if rewritten is None else _errors(exact, rewritten)
        same = reordered and doubles and judge(doubles[place], rounding_tolerance(own[place])).passed
        if not same:
            raise _changed(name, place[1], verdict.reasons, own=own[place])


def _changed(name: str, output: str, reasons: Sequence[str], own: TensorErrors | None = None) -> PassError:
    beside = "" if own is None else f" (beside the graph in float64, from which it was {own.sqnr_db:.1f} dB before)"
    return PassError(
        f"pass {name!r} changed output {output!r}: {'; '.join(reasons)}{beside}",
        hint="the graph before it is sound: please report the model",
    )


def check_and_run(
    model: ir.Model, feeds: Sequence[Mapping[str, Array]], *, shared: SharedWeights | None = None
) -> list[dict[str, Array]]:
    """Check a graph, then run it on each set of feeds in ONNX Runtime exactly as it stands, its own optimizer off.

    Args:
        model: the graph.
        feeds: of every run.
        shared: where weights go, so that those of a graph before are not written again.
    """
    import onnx.checker

    with contextlib.ExitStack() as stack:
        folder = shared.path.parent if shared is not None else stack.enter_context(temporary_folder("pass"))
        path = save_graph(model, folder / "model.onnx", shared=shared)[0]
        onnx.checker.check_model(str(path), full_check=True)
        run = open_onnx(path, optimize=False, packed=False)
        try:
            return [run(one) for one in feeds]
        finally:
            del run
            give_back_memory()

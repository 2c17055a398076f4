"""Rewrites of a graph, one per file, in the order of each target; every one is checked after it ran.

A pass is a function `(ir.Model) -> ir.Model`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aigc_export.errors import PassError
from aigc_export.graph import save_graph
from aigc_export.passes.batch_norm import fold_batch_norm
from aigc_export.passes.onnxscript_optimize import onnxscript_optimize
from aigc_export.passes.slim import slim
from aigc_runtime.backends.denormals import isolated
from aigc_runtime.compare import TensorErrors, Tolerance, compare_arrays, judge
from aigc_runtime.errors import OutputError
from aigc_runtime.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PASSES", "Pass", "PassReport", "check_and_run", "run_passes"]

Pass = Callable[["ir.Model"], "ir.Model"]

_CLEAN_UP: tuple[tuple[str, Pass], ...] = (
    ("onnxscript-optimize", onnxscript_optimize),
    ("onnxslim", slim),
    ("fold-batch-norm", fold_batch_norm),
)
PASSES: dict[str, tuple[tuple[str, Pass], ...]] = {
    "ort-cpu": _CLEAN_UP,
    "ort-cuda": _CLEAN_UP,
    # What a model spells out (masks, norms, grouped heads) TensorRT takes whole as it stands: see docs/tensorrt.md.
    "tensorrt-rtx": _CLEAN_UP,
    "tensorrt": _CLEAN_UP,
}
"""target -> (name, pass) in order."""

PASS_TOLERANCE = Tolerance(max_abs=1e-3, min_cosine=0.999999, min_sqnr_db=90.0)
"""What a rewrite may change: the order of additions, nothing else."""


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """What one pass did.

    Attributes:
        name: of the pass.
        nodes_before: number of nodes.
        nodes_after: number of nodes.
        seconds: of the pass alone, without its check.
        worst: errors of the output that moved most.
    """

    name: str
    nodes_before: int
    nodes_after: int
    seconds: float
    worst: TensorErrors


def run_passes(
    model: ir.Model,
    passes: Sequence[tuple[str, Pass]],
    *,
    feeds: Sequence[Mapping[str, Array]],
    tolerance: Tolerance = PASS_TOLERANCE,
) -> tuple[ir.Model, list[PassReport]]:
    """Run passes in order; after each, check the graph and compare it with the one before.

    Args:
        model: the captured graph; not changed.
        passes: names and functions.
        feeds: sets of arrays for every graph input, of different shapes.
        tolerance: of every output.

    Raises:
        PassError: a pass failed, made the graph invalid, or changed an output; names the pass and the output.
        OutputError: no room for the graph while it is checked.
    """
    reports: list[PassReport] = []
    expected = check_and_run(model, feeds)
    for name, rewrite in passes:
        nodes_before = len(model.graph)
        started = time.perf_counter()
        try:
            model = rewrite(model)
            seconds = time.perf_counter() - started
            actual = check_and_run(model, feeds)
        except OutputError:  # a full disk is no fault of the pass
            raise
        except Exception as err:
            raise PassError(
                f"pass {name!r} failed: {err}", hint="please report it; AIGC_DEBUG=1 shows the whole trace"
            ) from err
        worst = _compare(name, expected, actual, tolerance)
        reports.append(
            PassReport(
                name=name,
                nodes_before=nodes_before,
                nodes_after=len(model.graph),
                seconds=seconds,
                worst=worst,
            )
        )
        expected = actual
    return model, reports


def _compare(
    name: str, expected: Sequence[Mapping[str, Array]], actual: Sequence[Mapping[str, Array]], tolerance: Tolerance
) -> TensorErrors:
    worst: TensorErrors | None = None
    for before, after in zip(expected, actual, strict=True):
        if before.keys() != after.keys():
            raise PassError(f"pass {name!r} changed the outputs from {sorted(before)} to {sorted(after)}")
        for output, reference in before.items():
            errors = compare_arrays(reference, after[output])
            verdict = judge(errors, tolerance)
            if not verdict.passed:
                raise PassError(
                    f"pass {name!r} changed output {output!r}: {'; '.join(verdict.reasons)}",
                    hint="the graph before it is sound: please report the model",
                )
            if worst is None or errors.sqnr_db < worst.sqnr_db:
                worst = errors
    if worst is None:
        raise PassError(f"pass {name!r} was not checked: there were no feeds or no outputs")
    return worst


def check_and_run(model: ir.Model, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Check a graph, then run it on each set of feeds in ONNX Runtime exactly as it stands, its own optimiser off.

    It goes through files, as the built graph will: a graph of 2 GiB or more has no other form.
    """
    import onnx.checker
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="aigc-pass-") as folder:
        path = str(save_graph(model, Path(folder) / "model.onnx")[0])
        onnx.checker.check_model(path, full_check=True)
        session = isolated(lambda: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
        names = [o.name for o in session.get_outputs()]
        return [
            {name: np.asarray(value) for name, value in zip(names, session.run(names, dict(f)), strict=True)}
            for f in feeds
        ]

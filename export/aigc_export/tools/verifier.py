"""Compare a published bundle again with the PyTorch model that it was exported from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aigc_export.graphs.capture import capture
from aigc_export.line.bundle_files import read_graph
from aigc_export.line.origin import find_evaluation, load_original
from aigc_export.parity.bisect import Divergence, find_first_divergence
from aigc_export.parity.check import check_parity
from aigc_export.parity.device_limits import settle
from aigc_export.parity.reference import make_cases, make_generation
from aigc_export.recipes.recipe import check_quality_samples
from aigc_export.recipes.tolerances import with_user_limits
from aigc_export.workloads import get_workload
from aigc_export.workloads.evaluate import make_evaluator, program_evaluation
from aigc_models.caller_state import callers_state
from aigc_models.example_sizes import run_sizes
from aigc_models.program import Part, Program, example_feeds
from aigc_models.torch_session import TorchSession, open_torch
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.opening import open_program
from aigc_runtime.proof.verify import ParityReport

__all__ = ["Verification", "verify_against_torch"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of a verification.

    Attributes:
        report: every check.
        divergence: what bisection found, if it was asked for and parity is missed.
        tolerances: the limits that were applied.
        checkpoint: the weights file that the bundle was compared with; None for a module that was handed in.
        notes: what else to know, such as that it was evaluated on other data than at its export.
    """

    report: ParityReport
    divergence: Divergence | None
    tolerances: Tolerances
    checkpoint: Path | None
    notes: tuple[str, ...] = ()


@callers_state()
def verify_against_torch(
    bundle: Bundle,
    *,
    checkpoint: Path | str | None = None,
    model: Program | str | None = None,
    bisect: bool = False,
    quality_samples: int | None = None,
    eval_data: Path | str | None = None,
    seed: int = 1,
    threads: int | None = None,
    tolerance: Mapping[str, float] | None = None,
) -> Verification:
    """Run all levels of parity on a bundle, with fresh inputs, under the limits in its manifest.

    Args:
        bundle: opened.
        checkpoint: see `load_original`, as for the next one.
        model: the program itself, or what makes it.
        bisect: bisect the graph if parity is missed.
        quality_samples: see `ExportRecipe`.
        eval_data: the user's own text to evaluate on; None takes what the export used, where it is found.
        seed: of the inputs; another one than the export's tries inputs that it has not seen.
        threads: of the engine.
        tolerance: limits in place of the manifest's, by name.

    Raises:
        ConfigError: one quality sample, or fewer than none, or a limit that can never fail.
        UnknownNameError: no such limit.
        AigcError: the bundle, the checkpoint or the engine cannot be used. Missed parity is not raised: see the
            report.
    """
    check_quality_samples(quality_samples)
    manifest = bundle.manifest
    workload = get_workload(manifest.pipeline.kind)
    tolerances = with_user_limits(manifest.tolerances, tolerance or {}, workload)
    program = load_original(bundle, checkpoint, model=model)
    evaluation, notes = find_evaluation(manifest, partial(program_evaluation, program), eval_data)
    _LOG.info("%s: held against %s, seed %d, limits %s", bundle.path, program.name, seed, tolerances)
    reference = open_torch(program)
    with open_program(bundle, threads=threads) as candidate:
        bounded = _bounded(program, candidate)
        evaluate = make_evaluator(
            workload,
            reference,
            program.settings,
            evaluation=evaluation,
            samples=quality_samples,
            parameters=program.parameters,
            seed=seed,
            roles=program.engines,
        )
        scores = evaluate(candidate)
        report = check_parity(
            candidate,
            program,
            name=manifest.name,
            target=manifest.target,
            precision=manifest.precision,
            cases=make_cases(bounded, program, seed=seed),
            generation=make_generation(bounded, program, seed=seed),
            scores=scores,
            tolerances=tolerances,
            text=None if manifest.reference.text is None else bundle.read(manifest.reference.text),
        )
    # Inputs are fresh: where quality decides, that of the manifest's limits decides here, too.
    report = settle(report, tolerances, workload, scores).report
    divergence = None
    if bisect and not report.passed:
        engine = report.worst().engine
        divergence = _bisect(bundle, program.parts[engine], engine, seed, tolerances.tensor)
    return Verification(
        report=report,
        divergence=divergence,
        tolerances=tolerances,
        checkpoint=None if program.checkpoint is None else program.checkpoint.path,
        notes=(*program.notes, *(() if quality_samples == 0 else notes), *scores.warnings),
    )


def _bounded(program: Program, engines: OpenProgram) -> OpenProgram:
    """PyTorch's sessions, of the shapes that the engines take."""
    sessions = {
        name: ArraySession(TorchSession(part).call, engines.session(name).interface)
        for name, part in program.parts.items()
    }
    return OpenProgram(sessions, program.states, program.assets)


def _bisect(bundle: Bundle, part: Part, engine: str, seed: int, tolerance: Tolerance) -> Divergence:
    return find_first_divergence(
        read_graph(bundle, engine=engine, weights=True),
        capture(part).program,
        example_feeds(part, run_sizes(part)[0], seed=seed),
        output_names=part.interface.graph_outputs,
        tolerance=tolerance,
    )

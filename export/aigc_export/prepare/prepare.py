"""Prepare a model, for every verb that starts from PyTorch: load -> capture -> passes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aigc_calibration.bodies import all_nodes
from aigc_calibration.cache import read_calibration
from aigc_calibration.calibrate import Calibration, check_kind, needs_samples
from aigc_calibration.config import QuantConfig
from aigc_calibration.data import CalibrationData
from aigc_calibration.lookups import find_lookups
from aigc_calibration.sites import find_sites, inner_sites
from aigc_export.graphs.capture import Captured, capture
from aigc_export.graphs.passes import PassReport, run_passes
from aigc_export.prepare.calibration_data import ExampleData, calibration_data
from aigc_export.recipes.default_quantization import default_samples
from aigc_export.recipes.hints import with_hints
from aigc_export.recipes.part_precisions import check_parts
from aigc_export.recipes.recipe import ExportRecipe
from aigc_export.workloads import get_workload
from aigc_export.workloads.evaluate import is_evaluated_elsewhere, program_evaluation
from aigc_models.carried_form import fixed_capacity, in_buffers
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.example_sizes import run_sizes
from aigc_models.program import Part, Program, example_feeds
from aigc_models.sources import resolve
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.system.host_memory import give_back_memory
from aigc_runtime.system.interrupts import check_interrupted

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "WARNING",
    "PreparedModel",
    "Reporter",
    "Stage",
    "load_program",
    "pass_feeds",
    "prepare_graph",
    "prepare_parts",
]

_LOG = logging.getLogger(__name__)

Stage = Callable[[str, str], None]
"""Called as stage(name, what it did) when a stage is done."""


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """The float graph of a part in the form of its target, and all that it came from.

    Attributes:
        program: the PyTorch model and its checkpoint.
        part: whose graph it is.
        data: to calibrate on, already checked; None for fp32.
        calibration: of the recipe's file, already checked, in which case `data` is one example; else None.
        captured: the graph as captured, and the program behind it, which bisection needs.
        graph: after the target's passes.
        passes: what each pass did.
        evaluation: what the model is evaluated on.
        quantization: of the recipe, with the hints of the part; None for fp32.
    """

    program: Program
    part: Part
    data: CalibrationData | None
    calibration: Calibration | None
    captured: Captured
    graph: ir.Model
    passes: tuple[PassReport, ...]
    evaluation: Evaluation
    quantization: QuantConfig | None

    @property
    def output_names(self) -> tuple[str, ...]:
        """The results that a caller gets: state that is carried from run to run is not among them."""
        return tuple(tensor.name for tensor in self.part.interface.outputs)


def load_program(recipe: ExportRecipe) -> Program:
    """Load the model of a recipe, as its target takes it.

    Raises:
        AigcError: see `sources.resolve`.
        ConfigError: the target needs buffers of a fixed size, and nothing says which.
    """
    program = recipe.model
    if isinstance(program, str):
        program = resolve(program, options={**recipe.spec_options, "checkpoint": recipe.checkpoint})
    if recipe.target.prefers_buffers:
        program = in_buffers(program)
    return fixed_capacity(program) if recipe.target.fixes_capacity else program


def prepare_graph(recipe: ExportRecipe, reporter: Reporter) -> PreparedModel:
    """Prepare a model of one part; see `prepare_parts`.

    Raises:
        ConfigError: the model has several parts.
        AigcError: see `prepare_parts`.
    """
    program = load_program(recipe)
    _ = program.part
    (prepared,) = prepare_parts(recipe, program, reporter)
    return prepared


def prepare_parts(
    recipe: ExportRecipe,
    program: Program,
    reporter: Reporter,
    *,
    before_capture: Callable[[], None] | None = None,
) -> tuple[PreparedModel, ...]:
    """Capture every part of a model, and run the passes of its target.

    Args:
        recipe: for which target.
        program: the model.
        reporter: called after every stage.
        before_capture: called once all that was asked for is checked; may refuse the model.

    Raises:
        AigcError: the calibration data or the calibration cannot be used (said before the work starts), or a stage
            failed.
    """
    check_parts(recipe.parts, program.parts)
    parameters = {id(p): p.numel() for part in program.parts.values() for p in part.module.parameters()}
    several = "" if len(program.parts) == 1 else f" in {len(program.parts)} parts"
    total = sum(parameters.values())
    reporter.report("load", f"{program.name}: {total:,} parameters{several}, {program.weights_sha256[:12]}")
    for note in (*program.notes, *(note for part in program.parts.values() for note in part.notes)):
        reporter.warn(note)
    # What is bad is refused before the work starts.
    calibration = _calibration(recipe)
    evaluation = program_evaluation(program, recipe.eval_data)
    if is_evaluated_elsewhere(program, evaluation):
        reporter.warn(
            f"the checkpoint keeps no text of its own: it is evaluated on {evaluation.data} (see --eval-data)"
        )
    recipes = {name: recipe.of_part(name) for name in program.parts}
    data = {name: _calibration_data(program, part, evaluation, recipes[name]) for name, part in program.parts.items()}
    if before_capture is not None:
        before_capture()
    prepared: list[PreparedModel] = []
    for name, part in program.parts.items():
        alike = (one for one in prepared if _is_same(one.part, part) and recipes[one.part.name] == recipes[name])
        same = next(alike, None)
        prepared.append(
            replace(same, part=part)
            if same is not None
            else _prepare(
                program, part, recipes[name], reporter, data=data[name], calibration=calibration, evaluation=evaluation
            )
        )
    return tuple(prepared)


def _is_same(one: Part, other: Part) -> bool:
    """Whether parts differ in their names alone, as those for prompts and for tokens do: one capture serves both."""
    if one.module is not other.module or one.examples is not other.examples:
        return False
    return replace(one, name="", examples={}) == replace(other, name="", examples={})


def _prepare(
    program: Program,
    part: Part,
    recipe: ExportRecipe,
    reporter: Reporter,
    *,
    data: CalibrationData | None,
    calibration: Calibration | None,
    evaluation: Evaluation,
) -> PreparedModel:
    of = "" if len(program.parts) == 1 else f"{part.name}: "
    captured = capture(part, opset=recipe.opset or recipe.target.opset, model_config=program.model_config)
    nodes = sum(1 for _ in all_nodes(captured.model))
    reporter.report("capture", f"{of}{nodes} nodes, opset {captured.model.opset_imports['']}")
    graph, passes = run_passes(captured.model, recipe.target.passes, feeds=pass_feeds(part, recipe.seed))
    quantization = None
    if recipe.quantization is not None:
        quantization = with_hints(recipe.quantization, part.hints, recipe.run_precision)
        modules = [site.module for site in (*find_sites(graph), *inner_sites(graph))]
        modules += [lookup.module for lookup in find_lookups(graph)]
        for warning in quantization.check_modules(modules):
            reporter.warn(warning)
    for done in passes:
        reporter.report(
            done.name,
            f"{of}{done.nodes_before} -> {done.nodes_after} nodes, {done.worst.sqnr_db:.0f} dB{_rounding(done)}",
        )
    return PreparedModel(
        program=program,
        part=part,
        data=data,
        calibration=calibration,
        captured=captured,
        graph=graph,
        passes=tuple(passes),
        evaluation=evaluation,
        quantization=quantization,
    )


def _rounding(done: PassReport) -> str:
    return "" if done.rounding_db is None else f" (fp32 itself {done.rounding_db:.0f} dB)"


def _calibration(recipe: ExportRecipe) -> Calibration | None:
    if recipe.calibration is None:
        return None
    calibration = read_calibration(recipe.calibration)
    # A search calibrates in int8, the lowest precision that needs ranges.
    check_kind(calibration, "int8" if recipe.search is not None else recipe.site_precision)
    return calibration


def _calibration_data(
    program: Program, part: Part, evaluation: Evaluation, recipe: ExportRecipe
) -> CalibrationData | None:
    if recipe.quantization is None:
        return None
    if recipe.search is None and not needs_samples(recipe.quantization, recipe.site_precision):
        return ExampleData(part=part, seed=recipe.seed)
    if recipe.calibration is not None and len(program.parts) > 1:
        raise ConfigError(
            f"a calibration file is of one graph, {program.name!r} has several: {', '.join(program.parts)}",
            hint="leave --calibration out: every part is calibrated",
        )
    if recipe.calibration is not None and recipe.search is None:
        return ExampleData(part=part, seed=recipe.seed)
    return calibration_data(
        program,
        part=part,
        path=recipe.calibration_data,
        samples=recipe.quantization.samples
        or default_samples(recipe.quantization, get_workload(program.kind), recipe.target, recipe.precision, program),
        seed=recipe.seed,
        evaluation=evaluation,
    )


def pass_feeds(part: Part, seed: int) -> list[dict[str, Array]]:
    """Make example inputs of two sets of shapes: a rewrite that is right for one size only must fail."""
    return [example_feeds(part, sizes, seed=seed) for sizes in run_sizes(part)]


WARNING = "warning"
"""The stage under which warnings are reported."""


class Reporter:
    """Reports stages to the log and to the caller, each with the seconds that it took, and keeps the warnings."""

    def __init__(self, stage: Stage | None) -> None:
        self.stage = stage
        self.last = time.perf_counter()
        self.warnings: list[str] = []
        self._shown = {"shown": stage is not None}

    def warn(self, what: str) -> None:
        """Report a warning; an empty text is none."""
        if not what:
            return
        self.warnings.append(what)
        _LOG.warning("%s", what, extra=self._shown)
        if self.stage is not None:
            self.stage(WARNING, what)

    def report(self, name: str, what: str) -> None:
        """Report a stage; raise here if a signal came whose exception was dropped."""
        give_back_memory()
        check_interrupted()
        now = time.perf_counter()
        _LOG.info("%s: %s (%.1f s)", name, what, now - self.last, extra=self._shown)
        if self.stage is not None:
            self.stage(name, f"{what} ({now - self.last:.1f} s)")
        self.last = now

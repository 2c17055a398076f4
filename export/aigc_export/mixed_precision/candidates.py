"""Candidates of a search: graphs that were really built, run by the engine, evaluated beside PyTorch and timed."""

from __future__ import annotations

import contextlib
import hashlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aigc_calibration.collect import Statistics
from aigc_calibration.coverage import Coverage, Executed, check_executed
from aigc_calibration.emit import emit
from aigc_calibration.errors import PlanError
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.search.journal import Journal
from aigc_calibration.search.median import median_and_error
from aigc_calibration.search.pair import PrecisionPair
from aigc_export.prepare.prepare import PreparedModel
from aigc_export.prepare.request import build_engine
from aigc_export.recipes.recipe import ExportRecipe
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import Evaluator, Scores
from aigc_models.program import Program
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.io.jsonable import from_json, to_json
from aigc_runtime.proof.bench import bench_step
from aigc_runtime.system.temporary_folder import temporary_folder

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Built", "CandidateEvaluator", "build_mix", "emit_mix", "evaluation_key", "opened"]

RUNS_IN_FLOAT = "the engine runs it in float in this mix"
ROUNDS = 9
SITE_ROUNDS = 7
RUNS = 20


@dataclass(frozen=True, kw_only=True)
class Built:
    """A graph that could be shipped.

    Attributes:
        name: for people: `fp32`, `int8`, `int8 / float, 12 kept high`.
        precision: for the manifest: one plain precision, or `mixed`.
        base: the lowest plain precision in it, whose limits apply.
        graph: in the engine's form.
        plan: that it was emitted from; None for fp32.
        coverage: what the engine runs in low precision; None for fp32.
        statistics: that the plan was made from; None for fp32, and for a mix, which is made from the search's own.
    """

    name: str
    precision: str
    base: str
    graph: ir.Model
    plan: QuantizationPlan | None = None
    coverage: Coverage | None = None
    statistics: Statistics | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the graph's files."""
        digest = hashlib.sha256()
        with temporary_folder("candidate") as folder:
            for path in save_graph(self.graph, folder / "model.onnx"):
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
        return digest.hexdigest()

    @property
    def kept_high(self) -> int:
        """Number of sites in float, or above the base precision."""
        if self.plan is None:
            return 0
        return sum(1 for op in self.plan.ops if op.precision != self.plan.precision)


def evaluation_key(program: Program, evaluation: Evaluation, *, samples: int, seed: int) -> str:
    """Name all that scores of a candidate depend on, beside the candidate itself."""
    return f"{program.weights_sha256} {program.config_sha256} {evaluation.data} {evaluation.sha256} {samples} {seed}"


def emit_mix(pair: PrecisionPair, kept_high: Mapping[str, str]) -> Built:
    """Emit a mix for timing, without a proof of what the engine runs.

    Args:
        pair: plans in both precisions.
        kept_high: node -> why it stays in high precision.
    """
    plan, weights = pair.mix(kept_high)
    used = {op.precision for op in plan.quantized()}
    if pair.high is None and kept_high:
        used.add("float")
    if len(used) == 1:
        plan = replace(plan, precision=next(iter(used)))
    lowest = _bundle_name(plan.precision)
    return Built(
        name=f"all {lowest}" if len(used) == 1 else f"{pair.name}, {len(kept_high)} kept high",
        precision=lowest if len(used) == 1 else "mixed",
        base=lowest,
        graph=emit(pair.graph, plan, weights, pair.form),
        plan=plan,
    )


def _bundle_name(precision: str) -> str:
    """Convert a site's precision to the name that bundles use."""
    return "int4" if precision == "int4-weight" else precision


def build_mix(pair: PrecisionPair, kept_high: Mapping[str, str], macs: Mapping[str, int], executed: Executed) -> Built:
    """Emit a mix and prove that the engine runs it as planned; what it runs in float is kept high, too.

    Args:
        pair: plans in both precisions.
        kept_high: node -> why it stays in high precision.
        macs: of every site.
        executed: of the target: what its engine really runs in few bits.

    Raises:
        PlanError: nothing is left that the engine runs in low precision.
    """
    kept_high = dict(kept_high)
    while True:
        built = emit_mix(pair, kept_high)
        assert built.plan is not None
        try:
            return replace(built, coverage=check_executed(built.graph, built.plan, macs, executed))
        except PlanError:
            runs = executed(built.graph, built.plan)
            lost = {op.node for op in built.plan.quantized()} - (runs or set()) - kept_high.keys()
            if not lost or pair.high is not None:
                raise
            kept_high.update(dict.fromkeys(lost, RUNS_IN_FLOAT))


def opened(prepared: PreparedModel, session: Session) -> OpenProgram:
    """A program of one part, opened: an engine of the part, with what belongs to the program, such as a tokenizer."""
    program = prepared.program
    return OpenProgram({prepared.part.name: session}, program.states, program.assets)


class CandidateEvaluator:
    """Evaluates and times candidates, each as its target builds it; what the journal holds is not measured again.

    Args:
        prepared: the model.
        recipe: its target and settings.
        evaluate: makes the evaluator when the first candidate needs it, since PyTorch's side takes a while. None: only
            times.
        key: names everything that the evaluation depends on.
        journal: of the search.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        recipe: ExportRecipe,
        evaluate: Callable[[], Evaluator] | None,
        *,
        key: str,
        journal: Journal,
    ) -> None:
        self.prepared, self.recipe, self.key, self.journal = prepared, recipe, key, journal
        self._make_evaluate = evaluate
        self._evaluate: Evaluator | None = None
        self._sizes: dict[str, int] = {}
        self.evaluated = 0

    def evaluate(self, built: Built) -> Scores:
        """Measure quality beside PyTorch, on the engine itself."""

        def measure() -> Any:
            if self._evaluate is None:
                assert self._make_evaluate is not None, "this evaluator only times"
                self._evaluate = self._make_evaluate()
            with self._open(built) as session:
                return to_json(self._evaluate(opened(self.prepared, session)))

        self.evaluated += 1
        return from_json(Scores, self.journal.remember(f"scores {built.digest} {self.key}", measure))

    def time(self, built: Sequence[Built]) -> list[tuple[float, float]]:
        """Measure (ms of a step at batch 1, speedup over the first) of each: medians of alternating rounds."""
        rounds = self._rounds(built, ROUNDS)
        return [
            (statistics.median(r[i] for r in rounds), statistics.median(r[0] / r[i] for r in rounds))
            for i in range(len(built))
        ]

    def slower(self, first: Built, second: Built) -> tuple[float, float]:
        """Measure how many ms longer a step of `second` takes than one of `first`, and the standard error."""
        return median_and_error([b - a for a, b in self._rounds((first, second), SITE_ROUNDS)])

    def _rounds(self, built: Sequence[Built], rounds: int) -> list[list[float]]:
        def measure() -> list[list[float]]:
            program = self.prepared.program
            with contextlib.ExitStack() as stack:
                sessions = [opened(self.prepared, stack.enter_context(self._open(b))) for b in built]
                return [
                    [bench_step(s, program.settings, program.engines, runs=RUNS, warmup=2).median_ms for s in sessions]
                    for _ in range(rounds)
                ]

        key = f"rounds {' '.join(b.digest for b in built)} {self.recipe.threads}"
        return [[float(ms) for ms in row] for row in self.journal.remember(key, measure)]

    def size_bytes(self, built: Built) -> int:
        """Measure the size of the engine's files."""

        def measure() -> int:
            if built.digest not in self._sizes:
                with self._open(built):
                    pass
            return self._sizes[built.digest]

        return int(self.journal.remember(f"size {built.digest}", measure))

    @contextlib.contextmanager
    def _open(self, built: Built) -> Iterator[Session]:
        with temporary_folder("candidate") as folder:
            under_test = build_engine(
                self.prepared, built.graph, built.plan, self.recipe, folder, precision=built.precision
            )
            self._sizes[built.digest] = under_test.engine.size_bytes
            with under_test.candidate as session:
                yield session

"""Candidates of a search: graphs that were really built, run by the engine, judged beside PyTorch and timed."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aigc_calibration.coverage import Coverage, check_executed, executed_sites
from aigc_calibration.emit import emit
from aigc_calibration.errors import PlanError
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.search.journal import Journal
from aigc_calibration.search.ladder import Ladder
from aigc_models.paired import Judge, Judgement
from aigc_models.spec import ExportSpec
from aigc_runtime.backends.ort import OrtSession
from aigc_runtime.bench import bench_step
from aigc_runtime.settings import from_json, to_json

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Built", "Evaluator", "build_mix"]

RUNS_IN_FLOAT = "the engine runs it in float in this mix"
ROUNDS = 9
RUNS = 20


@dataclass(frozen=True, kw_only=True)
class Built:
    """A graph that could be shipped.

    Attributes:
        name: for people: `fp32`, `int8`, `int8 / float, 12 raised`.
        precision: for the manifest: one plain precision, or `mixed`.
        base: the lowest plain precision in it, whose limits apply.
        graph: in the engine's form.
        plan: that it was emitted from; None for fp32.
        coverage: what the engine runs in low precision; None for fp32.
    """

    name: str
    precision: str
    base: str
    graph: ir.Model
    plan: QuantizationPlan | None = None
    coverage: Coverage | None = None

    @cached_property
    def model(self) -> bytes:
        """Serialised."""
        import onnx_ir as ir

        serialised: bytes = ir.to_proto(self.graph).SerializeToString(deterministic=True)
        return serialised

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the serialised graph."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def raised(self) -> int:
        """Sites in float, or above the base precision."""
        if self.plan is None:
            return 0
        return sum(1 for op in self.plan.ops if op.precision != self.plan.precision)


def build_mix(ladder: Ladder, raised: Mapping[str, str], macs: Mapping[str, int], *, precision: str) -> Built:
    """Emit a mix and prove that the engine runs it as planned; what it runs in float after all is raised too.

    Args:
        ladder: both rungs.
        raised: node -> why it stands on the high rung.
        macs: of every site.
        precision: the manifest's name of the low rung.

    Raises:
        PlanError: nothing is left that the engine runs in low precision.
    """
    raised = dict(raised)
    while True:
        plan, weights = ladder.mix(raised)
        graph = emit(ladder.graph, plan, weights, ladder.form)
        try:
            coverage = check_executed(graph, plan, macs)
            break
        except PlanError:
            lost = {op.node for op in plan.quantised()} - executed_sites(graph, plan) - raised.keys()
            if not lost or ladder.high is not None:
                raise
            raised.update(dict.fromkeys(lost, RUNS_IN_FLOAT))
    return Built(
        name=f"{ladder.name}, {len(raised)} raised",
        precision="mixed" if raised else precision,
        base=precision,
        graph=graph,
        plan=plan,
        coverage=coverage,
    )


class Evaluator:
    """Judges and times candidates; what the journal knows is not measured again.

    Args:
        spec: of the model.
        judge: makes the judge when the first candidate needs it: PyTorch's side takes a while.
        key: names everything that the judge depends on.
        journal: of the search.
        threads: of the engine.
    """

    def __init__(
        self,
        spec: ExportSpec,
        judge: Callable[[], Judge],
        *,
        key: str,
        journal: Journal,
        threads: int | None,
    ) -> None:
        self.spec, self.key, self.journal, self.threads = spec, key, journal, threads
        self._make_judge = judge
        self._judge: Judge | None = None
        self.judged = 0

    def judge(self, built: Built) -> Judgement:
        """Quality beside PyTorch, on the engine itself."""

        def measure() -> Any:
            if self._judge is None:
                self._judge = self._make_judge()
            session = self._open(built)
            try:
                return to_json(self._judge(session))
            finally:
                session.close()

        self.judged += 1
        return from_json(Judgement, self.journal.remember(f"judgement {built.digest} {self.key}", measure))

    def time(self, built: Sequence[Built]) -> list[tuple[float, float]]:
        """(ms of a step at batch 1, how many times faster than the first) of each: medians of alternating rounds."""

        def measure() -> list[list[float]]:
            sessions = [self._open(b) for b in built]
            rounds = [
                [bench_step(s, self.spec.settings, runs=RUNS, warmup=2).median_ms for s in sessions]
                for _ in range(ROUNDS)
            ]
            for session in sessions:
                session.close()
            return [
                [statistics.median(r[i] for r in rounds), statistics.median(r[0] / r[i] for r in rounds)]
                for i in range(len(built))
            ]

        key = "latency " + " ".join(b.digest for b in built) + f" {self.threads}"
        return [(float(ms), float(ratio)) for ms, ratio in self.journal.remember(key, measure)]

    def _open(self, built: Built) -> OrtSession:
        spec = self.spec
        return OrtSession(
            built.model,
            inputs=spec.inputs,
            outputs=spec.outputs,
            dims=spec.dims,
            state=spec.state,
            threads=self.threads,
        )

"""Take sites back to float where an export in 8 bits misses its limits, until it holds or the gain is gone.

Nothing is done where the limits hold at once. Else all sites are put in an order, those first whose rounding does most
harm to the outputs for the work that it saves (`float_order`); the smallest number from the front that is measured to
bring the outputs as many decibels as are missing goes back to float; and the engine is built and held against PyTorch
again, by the limits that decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aigc_calibration.errors import PlanError
from aigc_calibration.float_order import Answers, FloatOrder, order_sites
from aigc_calibration.onnx_function import OnnxFunction, opened_when_called
from aigc_calibration.output_noise import judged_batches, most_evaluations
from aigc_calibration.plan import HALF_PRECISIONS
from aigc_calibration.quantize import Quantized, with_sites_float
from aigc_export.line.attempt import Attempt, Proof
from aigc_export.line.quantization import report_quantized
from aigc_export.mixed_precision.candidates import opened
from aigc_export.mixed_precision.descent import smallest
from aigc_export.parity.missing import missing_db
from aigc_export.prepare.prepare import PreparedModel
from aigc_export.workloads import get_workload
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError, CancelledError
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.pipelines.replay import run_request

__all__ = ["Found", "can_fall_back", "fall_back"]

LEAST_LEFT = 0.1
"""Of the work that was to be in 8 bits, what must stay so: products that are twice as fast there save 5 % then."""
MARGIN_DB = 1.0
"""Beyond what is missing, and doubled at every attempt: the mixes are measured on other samples than parity."""
MOST_ATTEMPTS = 4
"""Engines that are built after the first; the last one with as many sites in float as may be."""
SHOWN = 6
"""Sites that the sentence in the plan names."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of it.

    Attributes:
        attempt: the one that holds; else the one that misses least.
        sentence: what was tried, where it did not suffice; empty where it did, and where nothing was tried.
    """

    attempt: Attempt
    sentence: str = ""


def can_fall_back(quantized: Mapping[str, Quantized]) -> bool:
    """Whether any part has activations in 8 bits, whose sites can be taken back to float one by one."""
    return any(_switchable(one) for one in quantized.values())


def _switchable(quantized: Quantized) -> bool:
    return (
        quantized.float_graph is not None
        and quantized.plan.precision not in HALF_PRECISIONS
        and any(op.block is None for op in quantized.plan.quantized())
    )


def fall_back(first: Attempt, proof: Proof, folder: Path) -> Found:
    """Try engines with more and more sites in float, until one is within the limits.

    Args:
        first: with the plans as they were chosen.
        proof: judges what is tried.
        folder: where the engines' files go, each attempt's in a folder of its own.

    Returns:
        The first attempt itself where it holds, or where nothing can be done. Of all others, and of one that does not
        hold where others were tried, the engines are closed and their files removed.

    Raises:
        AigcError: an engine cannot be built or run.
        CancelledError: the progress returned False.
    """
    tolerance = proof.recipe.tolerances.tensor
    missing = missing_db(first.report, tolerance)
    if first.report.passed or missing is None or not can_fall_back(first.quantized):
        return Found(attempt=first)
    parts = {one.part.name: one for one in proof.prepared}
    ways = {name: _Way(parts[name], low, proof) for name, low in first.quantized.items() if _switchable(low)}
    start, best, tried, least = missing, first, first, missing
    for number in range(MOST_ATTEMPTS):
        names = _concerned(tried, ways, proof)
        margin, last = MARGIN_DB * 2**number, number == MOST_ATTEMPTS - 1
        low = dict(tried.quantized)
        for name in names:
            low[name] = ways[name].more(missing + margin, start=start, last=last) or low[name]
        if all(low[name] is tried.quantized[name] for name in names):
            break
        tried.discard()
        tried = proof.attempt(low, folder / f"attempt{number + 1}")
        if tried.report.passed:
            return Found(attempt=tried)
        now = missing_db(tried.report, tolerance)
        if now is None:
            break
        missing = now
        if missing < least:
            best, least = tried, missing
    tried.discard()
    sentence = "; ".join(way.sentence(best.quantized[name], least) for name, way in ways.items() if way.order)
    return Found(attempt=best, sentence=sentence)


def _concerned(tried: Attempt, ways: Mapping[str, _Way], proof: Proof) -> Sequence[str]:
    """The parts whose own outputs miss their limits; else, where all of it does, the one whose outputs are worst."""
    tolerance = proof.recipe.tolerances.tensor
    missed = [name for name in ways if missing_db(tried.report, tolerance, engine=name)]
    if missed:
        return missed
    worst = {
        name: min((c.errors.sqnr_db for c in tried.report.tensors if c.engine == name), default=0.0) for name in ways
    }
    return [min(worst, key=lambda name: worst[name])]


class _Way:
    """The way of one part from its plan towards float.

    Args:
        prepared: the part.
        quantized: as it was planned.
        proof: of the export.
    """

    def __init__(self, prepared: PreparedModel, quantized: Quantized, proof: Proof) -> None:
        self.prepared, self.quantized, self.proof = prepared, quantized, proof
        self.count = 0
        self.order: FloatOrder | None = None
        self._asked = False

    def more(self, missing: float, *, start: float, last: bool) -> Quantized | None:
        """Take back as many sites as bring the outputs so many decibels.

        Args:
            missing: decibels.
            start: what was missing with none in float.
            last: take as many as may be.

        Returns:
            None where there are no more that may be, or where nothing can be measured.
        """
        order = self._ordered()
        if order is None:
            return None
        most, before = order.most(LEAST_LEFT), order.measured(self.count)
        if self.count >= most or not before:
            return None
        allowed = before * 10 ** (-missing / 10)

        def guess() -> int:
            return next((k for k in range(self.count + 1, most) if order.predicted(k) <= allowed), most)

        found = None if last else smallest(self.count + 1, most, guess, lambda k: order.measured(k) <= allowed)
        self.count = most if found is None else found
        return self._with_float(order, start)

    def _ordered(self) -> FloatOrder | None:
        """Order the sites, at the first call; None where the graph cannot be run with switches."""
        if self._asked:
            return self.order
        self._asked = True
        found, prepared, proof = self.quantized, self.prepared, self.proof
        assert found.float_graph is not None
        assert prepared.data is not None
        try:
            threads = proof.recipe.threads
            run = opened_when_called(found.float_graph, threads=threads)
            judged = judged_batches(prepared.data, run)
            self.order = order_sites(
                found.float_graph,
                found.plan,
                found.weights,
                judged,
                proof.recipe.target.format,
                outputs=prepared.output_names,
                evaluations=most_evaluations(prepared.data, judged),
                answers=self._answers(),
                threads=threads,
                progress=proof.progress,
            )
        except CancelledError:
            raise
        except AigcError:  # what cannot be measured is not done; that the limits are missed stays the error
            return None
        return self.order

    def _answers(self) -> Answers | None:
        """Of a part that runs in a loop: the generation of the proof, by which mixes are compared."""
        part, program, request = self.prepared.part, self.prepared.program, self.proof.generation.request
        if not get_workload(program.kind).loops:
            return None

        def generate(run: OnnxFunction) -> Sequence[Mapping[str, Array]]:
            engine = opened(self.prepared, ArraySession(run, part.interface))
            return [run_request(make_pipeline(engine, program.settings, program.engines), request)]

        return generate

    def _with_float(self, order: FloatOrder, start: float) -> Quantized | None:
        proof, prepared = self.proof, self.prepared
        assert prepared.data is not None
        assert prepared.quantization is not None
        nodes = order.nodes[: self.count]
        try:
            made = with_sites_float(
                self.quantized,
                nodes,
                f"the outputs miss their limits with it in {self.quantized.plan.precision}",
                note=self._note(order, start),
                data=prepared.data,
                config=prepared.quantization,
                form=proof.recipe.target.format,
                executed=proof.recipe.target.executed,
                threads=proof.recipe.threads,
            )
        except PlanError:  # the engine would run nothing of what is left in 8 bits
            return None
        of = "" if len(proof.prepared) == 1 else f"{prepared.part.name}: "
        proof.reporter.report("keep float", f"{of}{made.kept_float}")
        report_quantized(made, proof.reporter.report, of=of, notes=False)
        return made

    def sentence(self, found: Quantized, missing: float) -> str:
        """Say what was tried in vain.

        Args:
            found: the best.
            missing: decibels that it lacks.
        """
        assert self.order is not None
        most = self.order.most(LEAST_LEFT)
        more = "Other numbers of them were no better"
        if self.count >= most:
            more = f"With more of them float less than {LEAST_LEFT:.0%} of their work would be left in 8 bits"
        best = found.kept_float or f"none of {len(self.order.nodes)} sites kept float"
        return f"the best that was found misses the limits by {missing:.1f} dB: {best}. {more}"

    def _note(self, order: FloatOrder, start: float) -> str:
        """Say how many sites are in float and why, and name the first."""
        plan = self.quantized.plan
        modules = {op.node: op.module or op.node for op in plan.ops}
        named = order.nodes[: self.count][:SHOWN]
        shown = ", ".join(f"{modules[node]} ({order.share(node):.0%} of the noise)" for node in named)
        more = f" and {self.count - SHOWN} more" if self.count > SHOWN else ""
        return (
            f"{self.count} of {len(order.nodes)} sites kept float, since with all in {plan.precision} the limits were "
            f"missed by {start:.1f} dB: {shown}{more}; {order.work_left(self.count):.0%} of the work of these sites "
            "stays in 8 bits"
        )

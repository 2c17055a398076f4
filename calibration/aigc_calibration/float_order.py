"""Order the sites of a plan by how much the outputs gain where one stays float, for what its work takes more of.

Every mix is measured end to end on a few samples: the graph with a switch for each site (`search.toggle`) runs once
for it, and nothing is built anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.coverage import site_macs
from aigc_calibration.formats import QdqFormat
from aigc_calibration.group_noise import noise_of_each
from aigc_calibration.onnx_function import Feeds, OnnxFunction, open_onnx
from aigc_calibration.output_noise import relative_noise
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.roles import by_role
from aigc_calibration.search.toggle import SWITCH, toggle_graph
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.progress import Progress, phase
from aigc_runtime.core.tensors import Array
from aigc_runtime.system.host_memory import give_back_memory
from aigc_runtime.system.interrupts import check_interrupted

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Answers", "FloatOrder", "order_sites"]

Answers = Callable[[OnnxFunction], Sequence[Mapping[str, Array]]]


@dataclass(frozen=True, kw_only=True)
class FloatOrder:
    """The sites that a plan quantizes, in the order in which they should stay float.

    Attributes:
        nodes: the first does the most harm for its work.
        noise: node -> the noise of the outputs, relative to their signal, that it alone makes; an estimate.
        work: node -> its multiply-accumulates of one run, of all sites that the plan quantizes.
        without: called with sites -> the noise with these float, on the samples.
        again: called with sites -> the order of all others, measured anew with these float. Noise that was small beside
            theirs is estimated better then.
    """

    nodes: tuple[str, ...]
    noise: Mapping[str, float]
    work: Mapping[str, int]
    without: Callable[[tuple[str, ...]], float]
    again: Callable[[tuple[str, ...]], FloatOrder]

    def measured(self, count: int) -> float:
        """The noise with the first `count` float, on the samples."""
        return self.without(self.nodes[:count])

    def share(self, node: str) -> float:
        """Of all noise, what a site makes."""
        total = sum(self.noise.values())
        return self.noise[node] / total if total else 0.0

    def work_left(self, count: int) -> float:
        """Of the work of all these sites, what is left in few bits with the first `count` float."""
        total = sum(self.work[node] for node in self.nodes)
        return sum(self.work[node] for node in self.nodes[count:]) / total if total else 0.0

    def most(self, least_left: float) -> int:
        """The largest number of sites that leave at least this share of their work in few bits."""
        return max(count for count in range(len(self.nodes)) if not count or self.work_left(count) >= least_left)

    def predicted(self, count: int) -> float:
        """The noise with the first `count` float, by adding up what each makes."""
        return sum(self.noise[node] for node in self.nodes[count:])


def order_sites(
    model: ir.Model,
    plan: QuantizationPlan,
    weights: Mapping[str, QuantizedWeight],
    judged: Sequence[Feeds],
    form: QdqFormat,
    *,
    outputs: Sequence[str],
    evaluations: int,
    answers: Answers | None = None,
    weights_of_batches: Sequence[float] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> FloatOrder:
    """Measure groups of sites, and order all by noise for work.

    The work of a site counts twice: by itself, and as one of so many sites, since one in float among others in few bits
    takes conversions whatever its size.

    Args:
        model: the float graph of the plan.
        plan: that quantizes one site at least, in a precision that `toggle_graph` takes.
        weights: codes of every weight that it quantizes.
        judged: batches of samples.
        form: of the engine.
        outputs: names of the results that count.
        evaluations: mixes that are measured at most.
        answers: what of a graph is compared, made with it as a function; None: its outputs on `judged`.
        weights_of_batches: see `Judged`; None: all count alike.
        threads: of the engine.
        progress: called after every mix that is measured.

    Raises:
        AigcError: the graph cannot be run with switches.
        CancelledError: `progress` returned False.
    """
    work = site_macs(model, judged[0])
    low = [op.node for op in plan.quantized()]
    run = open_onnx(toggle_graph(model, plan, weights, form), outputs=outputs, threads=threads, optimize=False)
    give_back_memory()
    mixes = _Mixes(run, low, answers or (lambda mix: [mix(feeds) for feeds in judged]), weights_of_batches)
    return _ordered(model, mixes, {node: work[node] for node in low}, frozenset(), evaluations, progress)


class _Mixes:
    """Noise of mixes of sites, each measured once.

    Args:
        run: the graph with switches.
        sites: that have one.
        answers: see `order_sites`.
        weights: see `Judged`.
    """

    def __init__(
        self, run: OnnxFunction, sites: Sequence[str], answers: Answers, weights: Sequence[float] | None
    ) -> None:
        self.sites = sites
        self._run, self._answers, self._weights = run, answers, weights
        self._exact = self._mix(frozenset())
        self._found: dict[frozenset[str], float] = {}

    def noise(self, on: frozenset[str]) -> float:
        """Noise of the outputs with these sites in few bits."""
        if on not in self._found:
            check_interrupted()
            self._found[on] = relative_noise(self._mix(on), self._exact, self._weights)
        return self._found[on]

    def _mix(self, on: frozenset[str]) -> Sequence[Mapping[str, Array]]:
        switches = {f"{SWITCH}{node}": np.array(node in on) for node in self.sites}
        return self._answers(lambda feeds: self._run({**feeds, **switches}))


def _ordered(
    model: ir.Model,
    mixes: _Mixes,
    work: Mapping[str, int],
    high: frozenset[str],
    evaluations: int,
    progress: Progress | None,
) -> FloatOrder:
    """Order the sites that are not float already.

    Args:
        model: the float graph.
        mixes: measures.
        work: of each site.
        high: sites that are float.
        evaluations: mixes that are measured at most.
        progress: see `order_sites`.
    """
    what = f"order of sites, {len(high)} float" if high else "order of sites"
    report, count = phase(progress, what, evaluations), 0
    left = [node for node in mixes.sites if node not in high]
    total = sum(work.values()) or 1
    cost = {node: work[node] / total + 1 / len(work) for node in left}

    def told(on: Sequence[str]) -> float:
        nonlocal count
        count += 1
        report(count)
        return mixes.noise(frozenset(on))

    found = noise_of_each(by_role(model, left), told, evaluations=evaluations)
    if count < evaluations:
        report(evaluations)  # there was nothing more to measure
    return FloatOrder(
        nodes=tuple(sorted(left, key=lambda node: -found[node] / cost[node])),
        noise=found,
        work=work,
        without=lambda more: mixes.noise(frozenset(left) - frozenset(more)),
        again=lambda more: _ordered(model, mixes, work, high | frozenset(more), evaluations, progress),
    )

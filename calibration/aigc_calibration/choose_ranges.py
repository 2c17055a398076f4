"""Choose how the range of every activation is found by what it does to the outputs, not by the activation's own error.

The least squared error of each activation by itself clips rare large numbers, which a sum of residuals may carry to the
end; the largest number seen wastes codes where nothing depends on it. Which of them a model wants where is measured on
a few samples, with every site quantized.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aigc_calibration.data import CalibrationData
from aigc_calibration.formats import QdqFormat
from aigc_calibration.group_descent import descend
from aigc_calibration.loud_rows import LoudRows, judged_beside
from aigc_calibration.onnx_function import Feeds, open_onnx, opened_when_called
from aigc_calibration.output_noise import LEAST_CHOICES, judged_sets, most_evaluations, output_noise
from aigc_calibration.plan import QuantizationPlan, TensorPlan
from aigc_calibration.planner import range_owners
from aigc_calibration.range_inputs import graph_with_ranges, range_feeds
from aigc_calibration.ranges import Method
from aigc_calibration.sites import find_sites
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.progress import Progress, phase
from aigc_runtime.system.host_memory import give_back_memory

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CANDIDATES", "choose_ranges", "with_methods"]

CANDIDATES: tuple[Method, ...] = ("mse", "minmax", "percentile")
"""Of which every range is one; where all are alike for the outputs, the first."""
ALIKE = 0.01
"""Ranges that differ by less of the larger are one."""


def choose_ranges(
    model: ir.Model,
    plans: Mapping[Method, QuantizationPlan],
    weights: Mapping[str, QuantizedWeight],
    data: CalibrationData,
    form: QdqFormat,
    *,
    outputs: Sequence[str],
    alike: bool = False,
    loud: LoudRows | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> QuantizationPlan:
    """Take each range from the plan whose method does least harm to the outputs.

    Args:
        model: the float graph of the plans.
        plans: in `int8`, by the method of all their ranges; they differ in nothing else.
        weights: codes of every weight that they quantize.
        data: calibration samples, of which the first are used.
        form: of the engine.
        outputs: names of the results that count.
        alike: take one method for all, which needs a run for each.
        loud: rows of the data that are judged, too.
        threads: of the engine.
        progress: called after every run over the samples with the number of runs, and how many there may be.

    Raises:
        CancelledError: `progress` returned False.

    Returns:
        The plan, with a sentence on what the methods do to the outputs.
    """
    first = next(iter(plans.values()))
    if not first.tensors:
        return first
    front, checked = judged_sets(data, opened_when_called(model, threads=threads), sets=2)
    judged = judged_beside(front, loud)
    exact = open_onnx(model, outputs=outputs, threads=threads)
    wanted = [[exact(feeds) for feeds in some] for some in (judged.batches, checked)]
    del exact
    give_back_memory()
    graph = graph_with_ranges(model, first, weights, form)
    run = open_onnx(graph, outputs=outputs, threads=threads, optimize=False)
    names = {str(value.name) for value in graph.graph.inputs}
    del graph
    owners = _owners(model, first)
    items = [name for name in _in_order(model, first) if name not in owners]
    most = len(plans) if alike else most_evaluations(data, front, least=LEAST_CHOICES)
    count, report = itertools.count(1), phase(progress, "methods of ranges" if alike else "choice of ranges", most)

    def noise(
        chosen: Mapping[str, Method],
        batches: Sequence[Feeds],
        exact: Sequence[Feeds],
        weights: Sequence[float] | None = None,
    ) -> float:
        ranges = range_feeds(_ranges(plans, owners, chosen), form)
        used = {name: array for name, array in ranges.items() if name in names}
        return output_noise(lambda feeds: run({**feeds, **used}), batches, exact, weights)

    def cost(chosen: Mapping[str, Method]) -> float:
        found = noise(chosen, judged.batches, wanted[0], judged.weights)
        report(next(count))
        return found

    def differs(name: str, one: Method, other: Method) -> bool:
        return not _alike(plans[one].ranges[name], plans[other].ranges[name])

    found = descend(items, tuple(plans), cost, differs=differs, evaluations=most)
    if found.evaluations < most:
        report(most)  # there was nothing more to try
    uniform = min(plans, key=lambda method: found.alike[method])
    chosen, note = found.options, _sentence(found.alike, found.cost, found.evaluations)
    if checked and set(chosen.values()) != {uniform}:
        same: Mapping[str, Method] = dict.fromkeys(items, uniform)
        mixed = found.cost + noise(chosen, checked, wanted[1])
        plain = found.alike[uniform] + noise(same, checked, wanted[1])
        if mixed >= plain:
            chosen, note = same, f"{note}; with other samples that is no better, and all ranges are by {uniform}"
    return with_methods(model, plans, chosen, note)


def with_methods(
    model: ir.Model, plans: Mapping[Method, QuantizationPlan], methods: Mapping[str, Method], note: str
) -> QuantizationPlan:
    """Take each range from the plan of its method.

    Args:
        model: the float graph of the plans.
        plans: by the method of all their ranges; they differ in nothing else.
        methods: of values; any other value has that of the first plan, and a result that of the activation it becomes.
        note: for the plan.
    """
    first = next(iter(plans.values()))
    tensors = tuple(_ranges(plans, _owners(model, first), methods))
    return replace(first, tensors=tensors, notes=(*first.notes, note))


def _owners(model: ir.Model, plan: QuantizationPlan) -> dict[str, str]:
    """Map each result to the activation whose range it takes, where the plan has one."""
    return {output: owner for output, owner in range_owners(model).items() if owner in plan.ranges}


def _ranges(
    plans: Mapping[Method, QuantizationPlan], owners: Mapping[str, str], methods: Mapping[str, Method]
) -> list[TensorPlan]:
    """The ranges of all values, in the order of the plans; see `with_methods`."""
    uniform, first = next(iter(plans.items()))
    by_method = {method: plan.ranges for method, plan in plans.items()}
    return [by_method[methods.get(owners.get(t.name, t.name), uniform)][t.name] for t in first.tensors]


def _sentence(alike: Mapping[Method, float], cost: float, evaluations: int) -> str:
    each = ", ".join(f"{method} {_decibels(noise):.1f} dB" for method, noise in alike.items())
    chosen = f"chosen one by one {_decibels(cost):.1f} dB ({evaluations} runs)"
    return f"ranges by their effect on the outputs: {each}, {chosen}"


def _decibels(noise: float) -> float:
    return -10 * math.log10(max(noise, 1e-30))


def _in_order(model: ir.Model, plan: QuantizationPlan) -> list[str]:
    """The values that have a range, in the order in which sites read or make them."""
    named = (name for site in find_sites(model) for name in (*site.activations, site.output))
    return [name for name in dict.fromkeys(named) if name in plan.ranges]


def _alike(one: TensorPlan, other: TensorPlan) -> bool:
    ends = [(t.amax, *(t.bounds or (-t.amax, t.amax))) for t in (one, other)]
    largest = max(abs(number) for numbers in ends for number in numbers)
    return all(abs(a - b) <= ALIKE * largest for a, b in zip(*ends, strict=True))

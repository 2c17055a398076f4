"""Choose the sites that stay float: those that make much of the noise for little of the work.

A few sites often make most of what 8 bits cost: a first layer, a last one, the embedding of a timestep, a layer that
one number in a thousand is large in. Which they are in a network is measured, not told by their names.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aigc_calibration.data import CalibrationData
from aigc_calibration.float_order import FloatOrder, order_sites
from aigc_calibration.formats import QdqFormat
from aigc_calibration.loud_rows import LoudRows, judged_beside
from aigc_calibration.onnx_function import opened_when_called
from aigc_calibration.output_noise import LEAST_CHOICES, judged_batches, most_evaluations
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.progress import Progress
from aigc_runtime.errors import AigcError, CancelledError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "MUCH_FOR_LITTLE",
    "FloatChoice",
    "can_choose",
    "choose_float",
    "in_rounds",
    "proven_sites",
    "with_float_sites",
    "worthy_sites",
]

_LOG = logging.getLogger(__name__)

MUCH_FOR_LITTLE = "it makes much of the noise for little of the work"
RATE = 2.0
"""Of a share of the noise that is left, to a site's cost: at this rate a hundredth of the work brings 0.09 dB."""
PROVEN_RATE = 3.0
"""The same of several chosen sites, as measured: what is estimated site by site promises more than it gives."""
CONVERSIONS = 0.1
"""Of a site's share by their number: what the conversions around one in float cost, beside its work."""
FEWEST_ROWS = 24
"""Rows of samples that a choice is made on."""
ROUNDS = 3
"""Times that the sites that are left are measured, while each time at least `WORTH_ANOTHER` of the noise went away, and
`WORTH_LEFT` of the work that may be float is left: every round takes as many runs as the first."""
WORTH_ANOTHER, WORTH_LEFT = 0.5, 0.05
SHOWN = 5
"""Sites that the sentence in the plan names."""


@dataclass(frozen=True, kw_only=True)
class FloatChoice:
    """Sites that stay float.

    Attributes:
        nodes: the sites.
        note: how they were chosen, a sentence; empty where there are none.
    """

    nodes: tuple[str, ...] = ()
    note: str = ""


def can_choose(data: CalibrationData, share: float) -> bool:
    """Check whether anything can be chosen; see `choose_float`."""
    return share > 0 and data.rows >= FEWEST_ROWS


def choose_float(
    model: ir.Model,
    plan: QuantizationPlan,
    weights: Mapping[str, QuantizedWeight],
    data: CalibrationData,
    form: QdqFormat,
    *,
    share: float,
    outputs: Sequence[str],
    loud: LoudRows | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> FloatChoice:
    """Choose sites of a plan to stay float.

    Samples of fewer rows than `FEWEST_ROWS` choose nothing. A choice among many sites would rest on few numbers; and it
    is large generators that are given few samples, for which it takes minutes.

    Args:
        model: the float graph of the plan.
        plan: in `int8` or `fp8`.
        weights: codes of every weight that it quantizes.
        data: calibration samples, of which the first are used.
        form: of the engine.
        share: of the work of all its sites, that may become float.
        outputs: names of the results that count.
        loud: rows of the data that are judged, too.
        threads: of the engine.
        progress: called after every mix that is measured.

    Raises:
        CancelledError: `progress` returned False.
    """
    if share <= 0 or len(plan.quantized()) < 2:
        return FloatChoice()
    if not can_choose(data, share):
        _LOG.info("which sites stay float was not measured: %d rows of samples are too few for it", data.rows)
        return FloatChoice()
    try:
        front = judged_batches(data, opened_when_called(model, threads=threads))
        judged = judged_beside(front, loud)
        order = order_sites(
            model,
            plan,
            weights,
            judged.batches,
            form,
            outputs=outputs,
            evaluations=most_evaluations(data, front, least=LEAST_CHOICES),
            weights_of_batches=judged.weights,
            threads=threads,
            progress=progress,
        )
    except CancelledError:
        raise
    except AigcError as err:  # a graph that cannot be run with switches keeps its plan
        _LOG.warning("which sites stay float was not measured: %s", err.message)
        return FloatChoice()
    chosen = in_rounds(order, share)
    if not chosen:
        return FloatChoice()
    return FloatChoice(nodes=tuple(chosen), note=_sentence(plan, order, chosen))


def with_float_sites(plan: QuantizationPlan, nodes: Sequence[str], note: str) -> QuantizationPlan:
    """Leave sites of a plan float that were chosen so.

    Args:
        plan: that quantizes them.
        nodes: the sites.
        note: how they were chosen, a sentence.
    """
    return replace(plan.with_float(dict.fromkeys(nodes, MUCH_FOR_LITTLE)), notes=(*plan.notes, note))


def in_rounds(order: FloatOrder, share: float) -> dict[str, float]:
    """Choose sites, then more among the others, measured with the first ones float.

    Args:
        order: of all sites that are in few bits.
        share: of their work, that may become float.

    Returns:
        site -> the noise that it makes, as it was estimated when it was chosen.
    """
    chosen: dict[str, float] = {}
    for _ in range(ROUNDS):
        found = proven_sites(order, worthy_sites(order, share - _work(tuple(chosen), order)))
        chosen |= {node: order.noise[node] for node in found}
        if not found or order.without(found) > (1 - WORTH_ANOTHER) * order.without(()):
            break
        left = share - _work(tuple(chosen), order)
        if left < WORTH_LEFT * share or not any(_work([n], order) <= left for n in order.nodes if n not in found):
            break  # nothing, or little, that is measured again could be taken
        order = order.again(found)
    return chosen


def worthy_sites(order: FloatOrder, share: float) -> tuple[str, ...]:
    """Choose sites, those with most noise for their cost first.

    Each must make `RATE` times as much of the noise that is left as it costs.

    Args:
        order: of all sites that are in few bits.
        share: of their work, that may become float. One site is always left.
    """
    left = sum(order.noise.values())
    used, found = 0.0, list[str]()
    if not math.isfinite(left):
        return ()
    for node in sorted(order.nodes, key=lambda node: -order.noise[node] / _cost([node], order)):
        work, enough = _work([node], order), RATE * _cost([node], order) * left
        if left <= 0 or used + work > share or order.noise[node] < enough or len(found) + 1 == len(order.nodes):
            continue
        found.append(node)
        used, left = used + work, left - order.noise[node]
    return tuple(found)


def proven_sites(order: FloatOrder, nodes: tuple[str, ...]) -> tuple[str, ...]:
    """Take as many of some sites, from the front, as are measured to be worth their cost together.

    What single sites make does not always add up: of a value that many sites read, each makes the same noise.

    Args:
        order: measures them.
        nodes: the best come first. All of them are tried, then a half, a quarter, and so on. One alone adds nothing up,
            and is held to the rate at which it was chosen.
    """
    whole = order.without(())
    while nodes:
        rate = PROVEN_RATE if len(nodes) > 1 else RATE
        if order.without(nodes) <= (1 - min(rate * _cost(nodes, order), 1)) * whole:
            return nodes
        nodes = nodes[: len(nodes) // 2]
    return ()


def _cost(nodes: Sequence[str], order: FloatOrder) -> float:
    """What sites in float cost: their share of the work, and of the conversions."""
    return _work(nodes, order) + CONVERSIONS * len(nodes) / len(order.work)


def _work(nodes: Sequence[str], order: FloatOrder) -> float:
    return sum(order.work[node] for node in nodes) / (sum(order.work.values()) or 1)


def _sentence(plan: QuantizationPlan, order: FloatOrder, noise: Mapping[str, float]) -> str:
    """Say what stays float, with what all of it takes away as it was measured, and what each makes as estimated."""
    modules = {op.node: op.module or op.node for op in plan.ops}
    nodes, whole = tuple(noise), order.without(())
    taken = 1 - order.without(nodes) / whole

    def shares(of: Sequence[str], noise: float) -> str:
        return f"{min(noise, 1):.0%} of the noise, {_work(of, order):.1%} of the work"

    each = ", ".join(f"{modules[node]} ({shares([node], noise[node] / whole)})" for node in nodes[:SHOWN])
    more = f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else ""
    count = "1 site stays float by its" if len(nodes) == 1 else f"{len(nodes)} sites stay float by their"
    return f"{count} effect on the outputs, {shares(nodes, taken)}: {each}{more}"

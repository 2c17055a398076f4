"""Measure what low precision costs and gains at every site: noise one site at a time, milliseconds and bytes.

The noise of sites adds up: on the shipped UNet the sum over 75 sites was within 0.03 dB of all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aigc_calibration.search.journal import Journal
from aigc_calibration.search.probe import Probe
from aigc_calibration.search.workers import Workers
from aigc_runtime.core.progress import Progress, phase

__all__ = [
    "CONFIDENCE_SIGMAS",
    "Groups",
    "Sensitivity",
    "decibels",
    "fallback_order",
    "fitting_last",
    "measure_sites",
    "total_noise",
]

Groups = tuple[tuple[str, ...], ...]

EXACT_DB = 300.0
CONFIDENCE_SIGMAS = 2.0
"""Standard errors by which a loss of time must differ from zero to be believed."""
TICK_MS = 1e-4


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Cost and gain of low precision at one site.

    Attributes:
        node: its name.
        op_type: its operator.
        module: the PyTorch module it came from.
        noise: of the outputs relative to their signal, with this site alone in low precision.
        share: of the sum over all sites.
        saved_ms: what low precision saves of a step, in its place in the whole graph; below 0 it is slower.
        saved_ms_error: standard error of that.
        saved_bytes: of its weight.
    """

    node: str
    op_type: str
    module: str
    noise: float
    share: float
    saved_ms: float
    saved_ms_error: float
    saved_bytes: int

    @property
    def sqnr_db(self) -> float:
        """Signal-to-noise ratio in dB with this site alone in low precision."""
        return decibels(self.noise)

    def gain(self, objective: str) -> float:
        """Compute what low precision saves, by `latency` (ms), `size` (bytes) or `ops` (one each); 0 or less: none.

        A time that cannot be distinguished from zero counts as its own error: small, but not nothing.
        """
        if objective == "size":
            return float(self.saved_bytes)
        if objective == "ops":
            return 1.0
        if self.saved_ms < -CONFIDENCE_SIGMAS * self.saved_ms_error:
            return self.saved_ms
        return max(self.saved_ms, self.saved_ms_error, TICK_MS)


def decibels(noise: float) -> float:
    """-10 log10 of a noise relative to the signal.

    >>> decibels(0.001)
    30.0
    """
    return EXACT_DB if noise <= 0 else min(EXACT_DB, -10 * math.log10(noise))


def measure_sites(
    probe: Probe,
    workers: Workers,
    journal: Journal,
    *,
    together: Groups | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Measure the noise of every group of sites alone: node -> noise, of which those of a group have equal shares.

    Args:
        probe: of the graph.
        workers: who measures.
        journal: what is known already, and where new results go.
        together: the groups; None: each site by itself.
        progress: called after every group with the number of measured sites and of all.

    Raises:
        CancelledError: `progress` returned False.
    """
    groups = tuple((node,) for node in probe.nodes) if together is None else together
    keys = {group: f"noise {probe.digest} {' '.join(group)}" for group in groups}
    found = {group: float(v) for group, key in keys.items() if (v := journal.get(key)) is not None}
    missing = [group for group in keys if group not in found]
    report = phase(progress, "sites", len(probe.nodes))
    for mix, noise in workers.noises(probe, missing):
        group = tuple(mix)
        journal.put(keys[group], noise)
        found[group] = noise
        report(sum(map(len, found)))
    shares = {node: noise / len(group) for group, noise in found.items() for node in group}
    return {node: shares[node] for node in probe.nodes}


def fallback_order(
    sites: Sequence[Sensitivity], objective: str, together: Groups | None = None
) -> tuple[Groups, Groups]:
    """Order groups of sites by how much they should stay in high precision.

    Args:
        sites: all that could run in low precision.
        objective: see `Sensitivity.gain`.
        together: the groups; None: each site by itself.

    Returns:
        (free, rest): `free` are the groups that low precision saves nothing for, the noisiest first: keeping them costs
        nothing. `rest` are the others, by noise removed per time or bytes given up, the largest first.
    """
    by_node = {site.node: site for site in sites}
    groups = tuple((site.node,) for site in sites) if together is None else together
    noise = {group: sum(by_node[node].noise for node in group) for group in groups}
    gain = {group: sum(by_node[node].gain(objective) for node in group) for group in groups}
    free = sorted((one for one in groups if gain[one] <= 0), key=lambda one: (-noise[one], one))
    rest = sorted((one for one in groups if gain[one] > 0), key=lambda one: (-noise[one] / gain[one], one))
    return tuple(free), tuple(rest)


def fitting_last(groups: Groups, noise: Mapping[str, float], allowed: float) -> tuple[Groups, Groups]:
    """Divide groups into those that stay in high precision, and those that fit into a noise together.

    From the last on, which saves most for its noise, each is taken that still fits: one that alone makes too much is
    gone around, however much it would save.

    Args:
        groups: in the order of `fallback_order`.
        noise: of each site.
        allowed: that all groups in low precision may make together.

    Returns:
        (high, low), each in the order of `groups`.

    >>> fitting_last((("a",), ("b",), ("head",), ("c",)), {"a": 2.0, "b": 1.0, "head": 9.0, "c": 1.0}, 4.0)
    ((('head',),), (('a',), ('b',), ('c',)))
    """
    left, fits = allowed, set[tuple[str, ...]]()
    for group in reversed(groups):
        own = sum(noise[node] for node in group)
        if own <= left:
            fits.add(group)
            left -= own
    return tuple(g for g in groups if g not in fits), tuple(g for g in groups if g in fits)


def total_noise(noise: Mapping[str, float], kept_high: Sequence[str]) -> float:
    """The noise with these sites in high precision, by the additive model."""
    gone = set(kept_high)
    return sum(n for node, n in noise.items() if node not in gone)

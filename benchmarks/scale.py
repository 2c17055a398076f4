"""Time and memory of an export as models grow: random weights of TinyLlama's shape in bf16 shards, made here.

    python benchmarks/scale.py --layers 6 12 24 48 --width 512 --precision fp32
    python benchmarks/scale.py --layers 25 --width 2048 --precision int4 --weight-method rtn

Every export runs in a process of its own. Peak memory is the process's largest resident set (VmHWM), beside the weights
as float32. The vocabulary is of bytes, which is the tokenizer that language models have here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

MAX_SHARD_BYTES = 2**30
HEAD_SIZE = 64
QUERIES_PER_KEY = 8
"""TinyLlama has 32 heads of 64 numbers, of which 8 share a key, and a feed-forward layer 2.75 times as wide."""
ALLOWANCE_BYTES = 10**9
LOOSE = {"min_cosine": 0.01, "min_sqnr_db": 0.1, "min_token_agreement": 0.01, "max_quality_drop": 10.0}
"""Limits that any export keeps."""
MAX_MULTIPLE = 3.0
"""An export may take this many times the weights in float32, and the allowance."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a model.

    Attributes:
        layers: number of blocks.
        width: of the model, a multiple of 512.
        context: most positions.
    """

    layers: int
    width: int
    context: int = 2048

    @property
    def config(self) -> dict[str, Any]:
        """The fields of `LMConfig`."""
        heads = self.width // HEAD_SIZE
        return {
            "vocab_size": 256,
            "context_length": self.context,
            "d_model": self.width,
            "n_layers": self.layers,
            "n_heads": heads,
            "n_kv_heads": max(1, heads // QUERIES_PER_KEY),
            "d_ff": self.width * 11 // 4,
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor, in the model's order."""
        d, f, kv = self.width, self.config["d_ff"], self.config["n_kv_heads"] * HEAD_SIZE
        yield "embed_tokens.weight", (256, d)
        for layer in range(self.layers):
            start = f"layers.{layer}"
            yield f"{start}.input_layernorm.weight", (d,)
            for name, rows in (("q", d), ("k", kv), ("v", kv), ("o", d)):
                yield f"{start}.self_attn.{name}_proj.weight", (rows, d)
            yield f"{start}.post_attention_layernorm.weight", (d,)
            yield f"{start}.mlp.gate_proj.weight", (f, d)
            yield f"{start}.mlp.up_proj.weight", (f, d)
            yield f"{start}.mlp.down_proj.weight", (d, f)
        yield "norm.weight", (d,)
        yield "lm_head.weight", (256, d)


def make_checkpoint(folder: Path, shape: Shape, *, shard_bytes: int = MAX_SHARD_BYTES) -> int:
    """Write random weights in shards of bf16, one of which is in memory at a time; count the numbers."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    shards: list[dict[str, Any]] = [{}]
    names: dict[str, int] = {}
    parameters = size = 0

    def close() -> None:
        save_file(shards[-1], folder / f"{len(shards)}.safetensors")
        shards[-1].clear()

    for name, sizes in shape.tensors():
        tensor = torch.ones(sizes) if len(sizes) == 1 else torch.randn(sizes, generator=generator).mul_(0.02)
        tensor = tensor.bfloat16()
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            close()
            shards.append({})
            size = 0
        shards[-1][name], names[name] = tensor, len(shards)
        size += tensor.nbytes
        parameters += tensor.numel()
    close()
    files = {n: f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)}
    for number, file in files.items():
        (folder / f"{number}.safetensors").rename(folder / file)
    index = {"metadata": {"total_size": 2 * parameters}, "weight_map": {k: files[n] for k, n in names.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"family": "lm", "model": shape.config}))
    return parameters


def peak_bytes(*, reset: bool = False) -> int:
    """Largest resident set of this process since it began, or since the last reset (Linux, proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return peak


def export(checkpoint: Path, destination: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Export in this process; the result is plain JSON."""
    from aigc_export.line.exporter import export_model
    from aigc_export.recipes.recipe import export_recipe

    stages: list[tuple[str, float, int]] = []
    started = last = time.perf_counter()
    imported = peak_bytes(reset=True)

    def stage(name: str, what: str) -> None:
        nonlocal last
        now = time.perf_counter()
        stages.append((name, now - last, peak_bytes(reset=True)))
        print(f"  {name:20} {now - last:7.1f} s {stages[-1][2] / 1e9:7.2f} GB  {what}", file=sys.stderr, flush=True)
        last = now

    recipe = export_recipe("lm", checkpoint=str(checkpoint), **options)
    result = export_model(recipe, destination, stage=stage)
    return {
        "seconds": time.perf_counter() - started,
        "imported_bytes": imported,
        "peak_bytes": max(peak_bytes(), *(peak for _, _, peak in stages)),
        "bundle_bytes": sum(file.stat().st_size for file in result.bundle.path.iterdir()),
        "stages": stages,
    }


def measure(shape: Shape, options: Mapping[str, Any]) -> dict[str, Any]:
    """Make a model and export it in a process of its own, among temporary files."""
    with TemporaryDirectory(prefix="aigc-scale-") as folder:
        parameters = make_checkpoint(Path(folder) / "model", shape)
        words = [sys.executable, __file__, "--in-process", folder, json.dumps(dict(options))]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": folder})
    found: dict[str, Any] = json.loads(done.stdout)
    weights = 4 * parameters
    found |= {
        "layers": shape.layers,
        "width": shape.width,
        "parameters": parameters,
        "float32_bytes": weights,
        "multiple": (found["peak_bytes"] - ALLOWANCE_BYTES) / weights,
        "within": found["peak_bytes"] <= MAX_MULTIPLE * weights + ALLOWANCE_BYTES,
    }
    return found


def shown(found: Mapping[str, Any]) -> str:
    """One line of a result."""
    limit = MAX_MULTIPLE * found["float32_bytes"] + ALLOWANCE_BYTES
    return (
        f"{found['layers']:3} layers of {found['width']}: {found['parameters'] / 1e6:7.1f} M, "
        f"{found['float32_bytes'] / 1e9:5.2f} GB in float32, peak {found['peak_bytes'] / 1e9:5.2f} GB "
        f"(limit {limit / 1e9:5.2f}), {found['seconds']:6.1f} s, bundle {found['bundle_bytes'] / 1e9:5.2f} GB"
    )


def slope(results: list[dict[str, Any]]) -> float | None:
    """Bytes of peak memory for each byte of weights, by least squares; None for one size."""
    import numpy as np

    sizes = [result["float32_bytes"] for result in results]
    if len(set(sizes)) < 2:
        return None
    return float(np.polyfit(sizes, [result["peak_bytes"] for result in results], 1)[0])


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory over the number of layers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(9, 3.5))
    layers = [result["layers"] for result in results]
    both[0].plot(layers, [result["peak_bytes"] / 1e9 for result in results], "o-", label="peak")
    both[0].plot(layers, [result["float32_bytes"] / 1e9 for result in results], "o--", label="weights in float32")
    both[0].set(xlabel="layers", ylabel="GB", ylim=(0, None))
    both[0].legend()
    both[1].plot(layers, [result["seconds"] for result in results], "o-")
    both[1].set(xlabel="layers", ylabel="seconds", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Read the options, measure one size after the other, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 12, 24, 48])
    parser.add_argument("--width", type=int, default=512, help="a multiple of 512; TinyLlama's is 2048")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--weight-method", help="of int4 and int8-weight")
    parser.add_argument("--calibration-samples", type=int)
    parser.add_argument("--quality-samples", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--plot", type=Path, help="where to draw them; needs matplotlib")
    parser.add_argument("--in-process", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_process is not None:
        folder = Path(given.in_process[0])
        print(json.dumps(export(folder / "model", folder / "bundle", json.loads(given.in_process[1]))))
        return
    names = ("precision", "weight_method", "calibration_samples", "quality_samples", "threads")
    options = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    if given.precision != "fp32":  # random weights have nothing to lose: how well they are rounded says nothing
        options["tolerance"] = LOOSE
    results = []
    for layers in given.layers:
        results.append(measure(Shape(layers=layers, width=given.width, context=given.context), options))
        print(shown(results[-1]), flush=True)
    if (steepness := slope(results)) is not None:
        print(f"peak memory grows by {steepness:.2f} bytes for each byte of weights in float32")
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    if given.plot is not None:
        plot(results, given.plot)


if __name__ == "__main__":
    main()

"""Decoding with a language model's graph as it was captured, and with each rewrite of it: A B A B in one process.

    .venv/bin/python benchmarks/decoder.py FOLDER --precision int4 --threads 2
    .venv/bin/python benchmarks/decoder.py FOLDER --cache buffer --precision fp32

FOLDER holds a model as transformers saves it. Weights are rounded to nearest, whose speed is that of GPTQ. Every
rewritten graph's logits are compared with the first's. `--processor-time` times one thread by what the processor spent
on it, which other work on the machine lengthens less than time itself. docs/speed.md has the table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from aigc_calibration.prepare import copy_graph
from aigc_export.graphs.passes.decoder.cached_attention import fuse_cached_attention
from aigc_export.graphs.passes.decoder.fuse import fuse_decoder
from aigc_export.graphs.passes.decoder.packed_products import pack_products
from aigc_export.graphs.passes.decoder.skip_norm import fuse_skip_norms
from aigc_export.line.quantization import quantize_parts
from aigc_export.prepare.calibration_data import ExampleData
from aigc_export.prepare.prepare import Reporter, prepare_graph
from aigc_export.recipes.hints import with_hints
from aigc_export.recipes.recipe import export_recipe
from aigc_export.targets.ort import build_ort
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array
from aigc_runtime.system.processor import instruction_set
from aigc_runtime.system.temporary_folder import temporary_folder

FORMS: Mapping[str, Callable[[ir.Model], ir.Model]] = {
    "as captured": lambda model: model,
    "packed products": lambda model: pack_products(copy_graph(model)),
    "cached attention": lambda model: fuse_cached_attention(copy_graph(model)),
    "skip norms": lambda model: fuse_skip_norms(copy_graph(model)),
    "all": fuse_decoder,
}


def graph_of(folder: str, cache: str, precision: str, context: int | None) -> tuple[Interface, ir.Model]:
    """The graph that ort-cpu would build of a model, before it is fused."""
    options = {"cache": cache, **({} if context is None else {"context_length": context})}
    reporter = Reporter(lambda name, what: print(f"{name}: {what}", file=sys.stderr))
    prepared = prepare_graph(export_recipe(folder, spec_options=options, quality_samples=0), reporter)
    if precision == "fp32":
        return prepared.part.interface, prepared.graph
    recipe = export_recipe(
        folder, precision=precision, weight_method="rtn", spec_options=options, quality_samples=0
    )  # fmt: skip
    assert recipe.quantization is not None
    low = replace(
        prepared,
        quantization=with_hints(recipe.quantization, prepared.part.hints, precision),
        data=ExampleData(part=prepared.part, seed=0),
    )
    return prepared.part.interface, quantize_parts([low], recipe, reporter, None)[prepared.part.name].graph


def run(session: OrtSession, state: Any, ids: list[int]) -> Array:
    """The logits behind the last of some tokens, [V]."""
    feeds = {
        "input_ids": np.array([ids]),
        "pad_length": np.zeros(1, np.int64),
        "logits_to_keep": np.array([len(ids) - 1]),
    }
    logits: Array = session.run(feeds, state)["logits"][0, -1]
    return logits


def conversation(session: OrtSession, ids: list[int], prompt: int) -> Iterator[Array]:
    """The logits behind a prompt, and behind every token after it."""
    state = session.new_state(1)
    yield run(session, state, ids[:prompt])
    for token in ids[prompt:]:
        yield run(session, state, [token])


def distance(one: list[Array], other: list[Array]) -> float:
    """The root mean square of a difference, relative to that of the first."""
    before, after = np.stack(one), np.stack(other)
    return float(np.sqrt(((before - after) ** 2).mean() / (before**2).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--cache", choices=("growing", "buffer"), default="growing")
    parser.add_argument("--precision", choices=("fp32", "int8-weight", "int4"), default="int4")
    parser.add_argument("--context", type=int)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processor-time", action="store_true")
    given = parser.parse_args()
    threads, clock = (1, time.thread_time) if given.processor_time else (given.threads, time.perf_counter)
    interface, model = graph_of(given.folder, given.cache, given.precision, given.context)
    ids = np.random.default_rng(0).integers(0, 256, given.prompt + given.tokens).tolist()
    with temporary_folder("decoder") as folder, ExitStack() as stack:
        sessions: dict[str, OrtSession] = {}
        for name, rewrite in FORMS.items():
            place = Path(folder) / name.replace(" ", "-")
            place.mkdir()
            built = build_ort(rewrite(model), interface, place)
            file = built.files[built.file]
            session = OrtSession(file.read_bytes(), interface, folder=str(place), threads=threads)
            sessions[name] = stack.enter_context(session)
        logits = {name: list(conversation(one, ids, given.prompt)) for name, one in sessions.items()}
        prompts: dict[str, list[float]] = {name: [] for name in FORMS}
        tokens: dict[str, list[float]] = {name: [] for name in FORMS}
        for _ in range(given.rounds):
            for name, session in sessions.items():
                taken, before = [], clock()
                for _ in conversation(session, ids, given.prompt):
                    now = clock()
                    taken.append(now - before)
                    before = now
                prompts[name].append(taken[0])
                tokens[name].append(statistics.median(taken[1:]))
    first = next(iter(FORMS))
    timed = "processor time of 1 thread" if given.processor_time else f"{threads} threads"
    print(f"{given.precision}, {given.cache} cache, {timed}, {instruction_set()}")
    for name in FORMS:
        gain = statistics.median(a / b for a, b in zip(tokens[first], tokens[name], strict=True))
        reading = statistics.median(a / b for a, b in zip(prompts[first], prompts[name], strict=True))
        print(
            f"{name:18s} {1e3 * statistics.median(tokens[name]):7.2f} ms a token, {gain:.2f}x; "
            f"{1e3 * statistics.median(prompts[name]):8.1f} ms a prompt of {given.prompt}, {reading:.2f}x; "
            f"logits differ by {distance(logits[first], logits[name]):.1e}"
        )


if __name__ == "__main__":
    main()

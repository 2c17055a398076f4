"""`aigc-export bench`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aigc_export.cli.bench_against import bench_against
from aigc_export.cli.model_options import original_option
from aigc_export.cli.options import CONTEXT, bundle_argument, emit_json, json_option, out_console, threads_option
from aigc_export.cli.paths import PATH, TEXT_PATH, WRITTEN_PATH
from aigc_export.peers.catalog import PEERS
from aigc_export.tools.timing import MAX_ROUNDS
from aigc_runtime.proof.bench import MAX_RUNS

if TYPE_CHECKING:
    from aigc_export.tools.machine_limits import MachineLimits, StepWork

MAX_TOKENS = 2**20
MAX_PROMPTS = 2**10


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export bench out/lm --against genai,llama:q8_0")
@bundle_argument
@original_option
@click.option("--checkpoint", type=TEXT_PATH, help="The weights PyTorch runs. Default: where the manifest says.")
@click.option(
    "--rounds", type=click.IntRange(1, MAX_ROUNDS), default=5, show_default=True, help="Alternations A B A B."
)
@click.option(
    "--against",
    metavar="NAME[:FORM],...",
    help="Other runtimes, of a language model: "
    + ", ".join(f"{peer.name} ({', '.join(peer.forms)})" for peer in PEERS.values())
    + ".",
)
@click.option("--beside", metavar="BUNDLE", type=TEXT_PATH, multiple=True, help="Further bundles of the model.")
@click.option("--peer-source", metavar="NAME=PATH", multiple=True, help="What NAME's model is built from.")
@click.option("--peer-python", metavar="NAME=PATH", multiple=True, help="The Python that has NAME. Default: this one.")
@click.option("--keep-peers", type=PATH, help="Folder for their models; those that are there are not built again.")
@click.option("--prompts", type=click.IntRange(1, MAX_PROMPTS), default=1, show_default=True, help="At once.")
@click.option("--prompt-tokens", type=click.IntRange(1, MAX_TOKENS), default=128, show_default=True, help="To read.")
@click.option("--new-tokens", type=click.IntRange(2, MAX_TOKENS), default=64, show_default=True, help="Behind them.")
@click.option(
    "--quality-samples", type=click.IntRange(0), default=8, show_default=True, help="Windows of text; 0: none."
)
@click.option("--eval-data", type=TEXT_PATH, help="Your text or jsonl. Default: that of the export.")
@click.option("--plot", type=WRITTEN_PATH, help="Draw speed and quality: .svg, .png or .pdf.")
@click.option(
    "--runs", type=click.IntRange(1, MAX_RUNS), default=30, show_default=True, help="Steps per round and side."
)
@threads_option
@json_option
def bench(
    bundle_path: str,
    model: str | None,
    checkpoint: str | None,
    rounds: int,
    against: str | None,
    beside: tuple[str, ...],
    peer_source: tuple[str, ...],
    peer_python: tuple[str, ...],
    keep_peers: Path | None,
    prompts: int,
    prompt_tokens: int,
    new_tokens: int,
    quality_samples: int,
    eval_data: str | None,
    plot: Path | None,
    runs: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Time BUNDLE against PyTorch eager on the same weights: one step at batch 1, equal threads, alternating.

    --against times a language model beside other runtimes instead, each in a process of its own on the same prompt, and
    judges what each of them computes beside PyTorch. The options from --beside to --plot belong to it.
    """
    from aigc_export.line.origin import load_original
    from aigc_export.tools.machine_limits import StepWork, measure_limits, multiplied_by, weights_read
    from aigc_export.tools.timing import time_side_by_side, torch_threads
    from aigc_models.torch_session import open_torch
    from aigc_runtime.backends.threads import available_threads
    from aigc_runtime.bundle.bundle import Bundle
    from aigc_runtime.opening import open_program
    from aigc_runtime.pipelines import kind_of, make_pipeline
    from aigc_runtime.proof.bench import bench_generation

    bundle = Bundle.open(bundle_path)
    if against is not None:
        bench_against(
            bundle,
            against,
            beside=beside,
            model=model,
            checkpoint=checkpoint,
            eval_data=eval_data,
            peer_source=peer_source,
            peer_python=peer_python,
            keep_peers=keep_peers,
            plot=plot,
            prompts=prompts,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            windows=quality_samples,
            rounds=rounds,
            threads=threads or available_threads(),
            as_json=as_json,
        )
        return
    pipeline, count = bundle.manifest.pipeline, threads or available_threads()
    settings, roles = pipeline.settings, pipeline.engines
    with open_program(bundle, threads=count) as candidate:
        with torch_threads(count):
            reference = open_torch(load_original(bundle, checkpoint, model=model))
            found = time_side_by_side(reference, candidate, settings, roles, rounds=rounds, runs=runs)
        whole = bench_generation(candidate, settings, roles)
    engines, limits = list(bundle.manifest.engines.values()), measure_limits(count)
    files = [bundle.path / engine.file for engine in engines]
    work = StepWork(
        seconds=found.candidate_ms / 1e3,
        # A step of several engines runs not all of them.
        weight_bytes=weights_read(files[0]) if len(files) == 1 and files[0].suffix == ".onnx" else None,
        flops=multiplied_by(kind_of(settings).step(make_pipeline(reference, settings, roles))),
    )
    if as_json:
        timed = {"torch_ms": found.reference_ms, "runtime_ms": found.candidate_ms, "speedup": found.speedup}
        shares = {"read_share": work.read_share(limits), "flops_share": work.flops_share(limits)}
        of_limits = {**asdict(limits), "weight_bytes": work.weight_bytes, "flops": work.flops, **shares}
        emit_json("aigc-export-bench/1", {"threads": count, **timed, "generation": asdict(whole), "limits": of_limits})
        return
    console = out_console()
    console.print(f"one step, batch 1, {count} threads, medians of {rounds} alternating rounds of {runs}")
    on_cpu = all(engine.runs_on_cpu for engine in engines)
    elsewhere = "" if on_cpu else ", on the CPU"
    console.print(f"PyTorch  {found.reference_ms:.3f} ms{elsewhere}")
    console.print(f"runtime  {found.candidate_ms:.3f} ms, {found.speedup:.2f}x")
    console.print(
        f"whole generation {whole.per_unit.median_ms:.3f} ms a {whole.unit}, "
        f"{whole.python_share:.1%} of it Python around the engine"
    )
    if on_cpu:
        console.print(_of_limits(work, limits))


def _of_limits(work: StepWork, limits: MachineLimits) -> str:
    """How near a step comes to what the machine does."""
    read, share = "", work.read_share(limits)
    if share is not None and work.weight_bytes is not None:
        rate = limits.read_bytes_per_s / 1e9
        read = f"{work.weight_bytes / 1e6:,.1f} MB of weights, {share:.0%} of what it reads ({rate:.0f} GB/s), and "
    return (
        f"of this machine's limits: {read}{work.flops / 1e9:,.2f} GFLOP, {work.flops_share(limits):.0%} of what it "
        f"multiplies in fp32 ({limits.fp32_flops_per_s / 1e9:,.0f} GFLOP/s)"
    )

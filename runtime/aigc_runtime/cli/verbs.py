"""The verbs `info`, `verify` and `bench` of `aigc-run`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import asdict

from aigc_runtime.backends.threads import available_threads
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.bundle.manifest_file import manifest_json
from aigc_runtime.cli.bundle import open_bundle
from aigc_runtime.cli.threads import chosen_threads
from aigc_runtime.io.printable import printable
from aigc_runtime.io.report import emit_json
from aigc_runtime.opening import open_program
from aigc_runtime.pipelines.class_names import class_table
from aigc_runtime.proof.bench import bench_generation, bench_reference, bench_speeds, bench_step
from aigc_runtime.proof.verify import TensorCheck, verify_bundle
from aigc_runtime.system.processor import instruction_set

__all__ = ["bench", "info", "verify"]


def _say(line: str = "") -> None:
    sys.stdout.write(printable(line) + "\n")


def info(arguments: argparse.Namespace) -> int:
    """Print what the bundle holds; loads no engine."""
    bundle = open_bundle(arguments)
    manifest = bundle.manifest
    if arguments.json:
        emit_json(
            "aigc-run-info/1",
            {
                "manifest_sha256": bundle.manifest_sha256,
                "has_signature": bundle.has_signature,
                "signed_by": bundle.signed_by,
                "manifest": manifest_json(manifest),
            },
        )
        return 0
    _say(f"{manifest.name}: {manifest.pipeline.kind}, {manifest.target}, {manifest.precision}")
    _say(f"size       {bundle.size_bytes / 1e6:.2f} MB")
    _say(f"manifest   sha256 {bundle.manifest_sha256}")
    _say(f"origin     {bundle.signature_told}")
    for name in manifest.engines:
        _say_engine(manifest, name)
    if manifest.assets:
        _say(f"reads      {', '.join(manifest.assets)}")
    names = getattr(manifest.pipeline.settings, "class_names", None)
    if names is not None:
        _say(f"classes    {class_table(names)}")
    _say(f"limits     {manifest.tolerances}")
    for quality in manifest.quality:
        _say(f"quality    {quality.metric} {quality.bundle:.5g} (PyTorch {quality.reference:.5g})")
    _say(
        f"made by    aigc-export {manifest.provenance.get('aigc-export', '?')}"
        f" at {manifest.provenance.get('created_utc', '?')}"
    )
    return 0


def _say_engine(manifest: Manifest, name: str) -> None:
    """Print one engine: file, build, proof, tensors."""
    engine, interface = manifest.engines[name], manifest.interfaces[name]
    several = f"{name}: " if len(manifest.engines) > 1 else ""
    _say(f"engine     {several}{engine.kind} ({engine.file})")
    for about, text in engine.backend.describe(engine.build):
        _say(f"{about:<10} {text}")
    if not engine.runs_on_cpu:
        ran = engine.proof.parity == "engine"
        _say(f"proven     {'the engine itself' if ran else 'its graph, on a CPU; the engine was not run'}")
    if engine.proof.proven_on:
        _say(f"proven on  {', '.join(engine.proof.proven_on)}")
    for word, specs in (("input", interface.inputs), ("output", interface.outputs)):
        for spec in specs:
            _say(f"{word:<10} {spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]")
    for (kind, dtype, shape), count in Counter((s.kind, s.dtype, s.shape) for s in interface.state).items():
        tensors = f"{count} tensor{'s' if count > 1 else ''}"
        _say(f"state      {tensors}, {kind}, {dtype} [{', '.join(map(str, shape))}]")


def verify(arguments: argparse.Namespace) -> int:
    """Prove the engine on this device; exit code 3 if it misses a limit."""
    bundle = open_bundle(arguments)
    with open_program(bundle, threads=chosen_threads(bundle, arguments.threads)) as program:
        report = verify_bundle(bundle, program)
    proven_on = tuple(dict.fromkeys(on for engine in bundle.manifest.engines.values() for on in engine.proof.proven_on))
    here = instruction_set() if proven_on else None
    if arguments.json:
        emit_json("aigc-run-verify/1", {**report.to_dict(), "instruction_set": here})
    else:
        if report.text is not None:
            _say(f"{'pass' if report.text.passed else 'FAIL'}  tokens: {report.text.measured}")
        for check in report.tensors:
            e = check.errors
            told = e.problem or f"max {e.max_over_rms:.1e} of the RMS, {e.sqnr_db:.0f} dB"
            _say(f"{'pass' if check.passed else 'FAIL'}  {check.case} step {check.step} {_output(check)}: {told}")
        g = report.generation
        _say(f"{'pass' if g.passed else 'FAIL'}  generation: {g.metric} {g.value:.4g} (at least {g.limit:g})")
        for failure in report.failures:
            _say(f"missed  {failure}")
        if set_by_user := bundle.manifest.tolerances.set_by_user:
            _say(f"limits set by the user: {', '.join(set_by_user)}")
        _say(_verdict(report.passed, here, proven_on))
    return 0 if report.passed else 3


def _output(check: TensorCheck) -> str:
    return check.output if check.engine == MAIN_ENGINE else f"{check.engine}.{check.output}"


def _verdict(passed: bool, here: str | None, proven_on: tuple[str, ...]) -> str:
    if not passed or here is None:
        return "verified" if passed else "NOT verified"
    return (
        f"verified on {here}"
        if here in proven_on
        else f"verified on {here}; the export proved it on {', '.join(proven_on)}"
    )


def bench(arguments: argparse.Namespace) -> int:
    """Time one step and whole generations at batch 1."""
    bundle = open_bundle(arguments)
    chosen = chosen_threads(bundle, arguments.threads)
    threads = available_threads() if chosen is None else chosen
    with open_program(bundle, threads=threads) as program:
        settings, roles = bundle.manifest.pipeline.settings, bundle.manifest.pipeline.engines
        each = {name: bench_reference(bundle, program, name, runs=arguments.runs) for name in _several(bundle)}
        step = bench_step(program, settings, roles, runs=arguments.runs)
        whole = bench_generation(program, settings, roles, runs=max(1, arguments.runs // 10))
        speeds = bench_speeds(program, settings, roles, runs=max(1, arguments.runs // 10))
    if arguments.json:
        engines = {name: asdict(latency) for name, latency in each.items()}
        emit_json(
            "aigc-run-bench/1",
            {
                "step": asdict(step),
                "generation": asdict(whole),
                "engines": engines,
                "speeds": speeds,
                "threads": threads,
                "instruction_set": instruction_set(),
            },
        )
        return 0
    if any(engine.runs_on_cpu for engine in bundle.manifest.engines.values()):
        _say(f"processor   {instruction_set() or 'unknown'}, {threads} thread{'s' if threads > 1 else ''}")
    _say(f"one step    {step.median_ms:.3f} ms (p10 {step.p10_ms:.3f}, p90 {step.p90_ms:.3f}, {step.runs} runs)")
    for name, latency in each.items():
        spread = f"p10 {latency.p10_ms:.3f}, p90 {latency.p90_ms:.3f}"
        _say(f"{name:<11} {latency.median_ms:.3f} ms ({spread}), on the inputs of its reference")
    unit = whole.per_unit
    _say(f"generation  {unit.median_ms:.3f} ms a {whole.unit} = {1e3 / unit.median_ms:.1f} a second")
    for name, value in speeds.items():
        _say(f"{name.replace('_', ' ')}: {value:,.5g}")
    _say(f"python      {whole.python_share:.1%} of the time is spent around the engine")
    return 0


def _several(bundle: Bundle) -> list[str]:
    """The engines, where there are several: a step of the pipeline does not tell one from the other."""
    names = list(bundle.manifest.engines)
    return names if len(names) > 1 else []

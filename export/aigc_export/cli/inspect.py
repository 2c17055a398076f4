"""`aigc-export inspect`."""

from __future__ import annotations

from collections import Counter

import click

from aigc_export.cli.options import CONTEXT, bundle_argument, emit_json, json_option, out_console


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export inspect out/unet")
@bundle_argument
@json_option
def inspect(bundle_path: str, as_json: bool) -> None:
    """Show what is inside BUNDLE: interface, provenance, quality, and the graph's operators and weights."""
    import onnx

    from aigc_runtime.bundle import Bundle
    from aigc_runtime.settings import to_json

    bundle = Bundle.open(bundle_path)
    manifest = bundle.manifest
    graph = onnx.load_model_from_string(bundle.read(manifest.engine.file)).graph
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph.node)
    weights = sorted(((t.name, list(t.dims)) for t in graph.initializer), key=lambda w: -_count(w[1]))
    found = {
        "manifest_sha256": bundle.manifest_sha256,
        "size_bytes": bundle.size_bytes,
        "nodes": len(graph.node),
        "operators": dict(operators.most_common()),
        "parameters": sum(_count(shape) for _, shape in weights),
        "largest_weights": [{"name": n, "shape": s} for n, s in weights[:10]],
        "manifest": to_json(manifest),
    }
    if as_json:
        emit_json(found)
        return
    from rich.table import Table

    console = out_console()
    console.print(f"[bold]{manifest.name}[/] {manifest.family}, {manifest.target}, {manifest.precision}")
    console.print(f"manifest sha256 {bundle.manifest_sha256}, {bundle.size_bytes / 1e6:.2f} MB")
    table = Table()
    for heading in ("", "name", "type", "shape"):
        table.add_column(heading, overflow="fold")
    rows = [("input", s) for s in manifest.inputs] + [("output", s) for s in manifest.outputs]
    for word, spec in rows:
        table.add_row(word, spec.name, spec.dtype, str(list(spec.shape)))
    for state in manifest.state:
        table.add_row(f"state, {state.kind}", f"{state.input} -> {state.output}", state.dtype, str(list(state.shape)))
    for file in manifest.files:
        table.add_row("file", file.path, f"{file.size:,} B", file.sha256[:16])
    console.print(table)
    console.print(f"{found['nodes']} nodes: " + ", ".join(f"{n} {op}" for op, n in operators.most_common(12)))
    console.print(f"{found['parameters']:,} parameters, the largest {weights[0][0]} {weights[0][1]}")
    for quality in manifest.quality:
        console.print(f"{quality.metric}: {quality.bundle:.5g} (PyTorch {quality.reference:.5g})")
    for key, value in manifest.provenance.items():
        console.print(f"{key}: {value}")


def _count(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total

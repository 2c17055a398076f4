"""`aigc-export inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aigc_export.cli.options import CONTEXT, emit_json, json_option, out_console
from aigc_export.cli.paths import TEXT_PATH
from aigc_runtime.io.printable import printable

if TYPE_CHECKING:
    from aigc_calibration.plan import QuantizationPlan
    from aigc_runtime.bundle.bundle import Bundle
    from aigc_runtime.bundle.manifest import Manifest

GRAPH_SUFFIX = ".onnx"
"""Of an engine's file that is a graph."""


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export inspect out/unet")
@click.argument("what", metavar="MODEL|BUNDLE", type=TEXT_PATH)
@json_option
def inspect(what: str, as_json: bool) -> None:
    """Show what a model is before any work, or what is inside a bundle.

    Of a MODEL, named as for `export`: architecture, parameters, text, sizes per precision, and what an export takes; no
    weights are read. Of a BUNDLE: interface, provenance, quality, and the graph's operators and weights.
    """
    from aigc_runtime.bundle.bundle import MANIFEST
    from aigc_runtime.io.user_file import path_exists

    if path_exists(Path(what) / MANIFEST):
        _inspect_bundle(what, as_json=as_json)
        return
    from aigc_export.cli.inspect_model import inspect_model

    inspect_model(what, as_json=as_json)


def _inspect_bundle(bundle_path: str, *, as_json: bool) -> None:
    from aigc_calibration.coverage import float_sites
    from aigc_export.line.bundle_files import read_plan
    from aigc_runtime.bundle.bundle import Bundle
    from aigc_runtime.bundle.manifest_file import manifest_json
    from aigc_runtime.pipelines.class_names import class_table

    bundle = Bundle.open(bundle_path)
    manifest = bundle.manifest
    found = {
        "manifest_sha256": bundle.manifest_sha256,
        "has_signature": bundle.has_signature,
        "signed_by": bundle.signed_by,
        "size_bytes": bundle.size_bytes,
        "manifest": manifest_json(manifest),
    }
    # A compiled engine holds no graph that could be read.
    engines = manifest.engines.items()
    graphs = {name: _graph_facts(bundle, name) for name, engine in engines if engine.file.endswith(GRAPH_SUFFIX)}
    found["graphs"] = graphs
    plan = read_plan(bundle)
    if plan is not None:
        found["plan"] = {"sites": plan.counts(), "float": float_sites(plan)}
    if as_json:
        emit_json("aigc-export-inspect/1", found)
        return
    from rich.table import Table

    console = out_console()
    console.print(
        f"[bold]{_plain(manifest.name)}[/] {_plain(manifest.pipeline.kind, manifest.target, manifest.precision)}"
    )
    console.print(f"manifest sha256 {bundle.manifest_sha256}, {bundle.size_bytes / 1e6:.2f} MB")
    console.print(printable(bundle.signature_told), soft_wrap=True, markup=False)
    names = getattr(manifest.pipeline.settings, "class_names", None)
    if names is not None:
        console.print(f"classes: {class_table(names)}", soft_wrap=True, markup=False)
    table = Table()
    for heading in ("", "name", "type", "shape"):
        table.add_column(heading, overflow="fold")
    for name in manifest.engines:
        for row in _tensor_rows(manifest, name):
            table.add_row(*row)
    for file in manifest.files:
        table.add_row("file", _plain(file.path), f"{file.size:,} B", file.sha256[:16])
    console.print(table)
    for name in manifest.engines:
        for line in _engine_lines(manifest, name, graphs):
            console.print(printable(line), soft_wrap=True, markup=False)
    for line in () if plan is None else _plan_lines(plan):
        console.print(printable(line), soft_wrap=True, markup=False)
    console.print(f"limits: {manifest.tolerances}", soft_wrap=True, markup=False)
    measured = {q.metric: f"{q.bundle:.5g} (PyTorch {q.reference:.5g})" for q in manifest.quality}
    for key, value in {**measured, **manifest.provenance}.items():
        console.print(printable(f"{key}: {value}"), markup=False)


def _plain(*values: object) -> str:
    """Escape a text for rich: names may hold what it would read as markup."""
    from rich.markup import escape

    return escape(printable(", ".join(map(str, values))))


def _prefix(manifest: Manifest, engine: str) -> str:
    return f"{engine}: " if len(manifest.engines) > 1 else ""


def _tensor_rows(manifest: Manifest, engine: str) -> Iterator[tuple[str, str, str, str]]:
    """Rows of the table for the tensors of an engine."""
    interface, of = manifest.interfaces[engine], _prefix(manifest, engine)
    for word, specs in (("input", interface.inputs), ("output", interface.outputs)):
        for spec in specs:
            yield f"{of}{word}", _plain(spec.name), spec.dtype, _plain(list(spec.shape))
    for state in interface.state:
        yield (
            f"{of}state, {state.kind}",
            _plain(f"{state.input} -> {state.output}"),
            state.dtype,
            _plain(list(state.shape)),
        )


def _engine_lines(manifest: Manifest, name: str, graphs: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """What an engine consists of, how it was built and how it was proven."""
    engine, of = manifest.engines[name], _prefix(manifest, name)
    graph = _graph_lines(graphs[name]) if name in graphs else []
    for line in (*graph, *map(" ".join, engine.backend.describe(engine.build))):
        yield f"{of}{line}"
    if not engine.runs_on_cpu:
        run = engine.proof.parity == "engine"
        yield f"{of}{'run and compared' if run else 'not run here: parity is that of its graph on a CPU'}"


def _plan_lines(plan: QuantizationPlan) -> Iterator[str]:
    from aigc_calibration.coverage import float_sites

    yield "plan: " + ", ".join(f"{n} {precision}" for precision, n in sorted(plan.counts().items()))
    for site, why in float_sites(plan).items():
        yield f"  {site}: {why}"


def _graph_facts(bundle: Bundle, engine: str) -> dict[str, Any]:
    """Count operators and weights of an engine's graph, bodies of If, Loop and Scan included."""
    from aigc_calibration.bodies import proto_graphs, proto_nodes
    from aigc_export.line.bundle_files import read_graph

    graph = read_graph(bundle, engine=engine).graph
    nodes, constants = list(proto_nodes(graph)), (t for one in proto_graphs(graph) for t in one.initializer)
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes)
    weights = sorted(((t.name, list(t.dims)) for t in constants), key=lambda w: -_count(w[1]))
    return {
        "nodes": len(nodes),
        "operators": dict(operators.most_common()),
        "parameters": sum(_count(shape) for _, shape in weights),
        "largest_weights": [{"name": n, "shape": s} for n, s in weights[:10]],
    }


def _graph_lines(found: dict[str, Any]) -> list[str]:
    operators, largest = list(found["operators"].items()), found["largest_weights"]
    which = f", the largest {largest[0]['name']} {largest[0]['shape']}" if largest else ""
    return [
        f"{found['nodes']} nodes: " + ", ".join(f"{n} {op}" for op, n in operators[:12]),
        f"{found['parameters']:,} parameters{which}",
    ]


def _count(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total

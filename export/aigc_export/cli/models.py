"""`aigc-export models`."""

from __future__ import annotations

import json

import click

from aigc_export.cli.options import CONTEXT, emit_json, json_option, out_console


@click.command(context_settings=CONTEXT, epilog="Example: aigc-export models --json")
@json_option
def models(as_json: bool) -> None:
    """List the shipped models with their measured quality, the families of transformers that are read, and targets."""
    from aigc_export.targets.table import known_targets
    from aigc_models.sources.shipped import MODELS
    from aigc_models.sources.transformers.families import FAMILIES
    from aigc_models.weights.checkpoint import shipped_checkpoint

    rows = []
    for name, entry in MODELS.items():
        folder = shipped_checkpoint(name)
        report = json.loads((folder / "quality.json").read_text(encoding="utf-8"))
        rows.append(
            {
                "name": name,
                "kind": entry.kind,
                "summary": entry.summary,
                "parameters": report["training"]["parameters"],
                "size_bytes": (folder / "model.safetensors").stat().st_size,
                "quality": report["quality"],
                "options": list(entry.options),
            }
        )
    targets = {t.name: {"precisions": list(t.precisions), "summary": t.summary} for t in known_targets()}
    families = {
        name: {"architecture": family.architecture, "examples": list(family.examples)}
        for name, family in FAMILIES.items()
    }
    if as_json:
        emit_json("aigc-export-models/1", {"models": rows, "families": families, "targets": targets})
        return
    from rich.table import Table

    table = Table()
    for heading in ("model", "kind", "parameters", "size", "quality", ""):
        table.add_column(heading, overflow="fold")
    for row in rows:
        shown = ", ".join(f"{k} {v:.4g}" for k, v in row["quality"].items())
        size = f"{row['size_bytes'] / 1e6:.1f} MB"
        table.add_row(row["name"], row["kind"], f"{row['parameters']:,}", size, shown, row["summary"])
    console = out_console()
    console.print(table)
    console.print("folders of transformers (model_type of config.json), such as:")
    for name, found in families.items():
        console.print(f"  {name}: {'; '.join(found['examples'])}", soft_wrap=True)
    for name, target in targets.items():
        console.print(f"target {name}: {target['summary']}, {' '.join(target['precisions'])}")

"""What `aigc-export inspect` says of a model before any work: from config.json and the headers of its weights alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aigc_export.cli.options import emit_json, out_console
from aigc_export.line.estimate import MEASURED_ON, Machine, estimate, processors, this_machine
from aigc_export.line.sizes import bundle_size, cache_bytes
from aigc_export.targets import DEFAULT_TARGET
from aigc_export.targets.table import get_target, known_targets
from aigc_models.families.lm_shapes import INT8_IN_BLOCKS, count_parameters
from aigc_models.sources import outline
from aigc_runtime.io.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from aigc_models.families.lm_config import LMConfig
    from aigc_models.families.rope_config import RopeConfig
    from aigc_models.sources import Outline
    from aigc_models.text_assets import TextAssets

__all__ = ["inspect_model", "model_facts"]

SCHEMA = "aigc-export-inspect-model/1"
PER_PART = "auto chooses a precision for each of the parts; auto,PART=PRECISION,... leaves those alone that are named"
BIGGEST_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def inspect_model(model: str, *, as_json: bool) -> None:
    """Print what is known of a model before its weights are read.

    Args:
        model: as an export takes it.
        as_json: one JSON document in place of text.

    Raises:
        AigcError: nothing of that name, or what could not be exported; says why.
    """
    found = model_facts(model, this_machine())
    if as_json:
        emit_json(SCHEMA, found)
        return
    console = out_console()
    for line in _lines(found):
        console.print(printable(line), soft_wrap=True, markup=False)
    _print_precisions(console, found)
    for note in found["notes"]:
        console.print(printable(f"note: {note}"), soft_wrap=True, markup=False)


def model_facts(model: str, machine: Machine) -> dict[str, Any]:
    """Collect what is known of a model, as JSON.

    Args:
        model: as an export takes it.
        machine: that would export it.
    """
    source, known = outline(model)
    return {
        "model": model,
        "source": source,
        "kind": known.kind or None,
        "architecture": known.architecture or None,
        "family": known.family or None,
        "parameters": known.parameters,
        "parameters_of": None if known.config is None else dict(count_parameters(known.config)),
        "stored_bytes": dict(known.stored),
        "shape": None if known.config is None else _shape(known.config),
        "text": None if known.text is None or known.config is None else _text(known.text, known.config.vocab_size),
        "cache": None if known.config is None else _cache(known.config),
        "targets": _targets(),
        "sizes_on": DEFAULT_TARGET,
        "precisions": _precisions(known, machine),
        "machine": {
            "processors": processors(),
            "memory_free_bytes": machine.memory_bytes,
            "disk_free_bytes": machine.disk_bytes,
            "temporary_free_bytes": machine.temporary_bytes,
        },
        "estimates_from": MEASURED_ON,
        "notes": [*known.notes, *((PER_PART,) if known.several_parts else ())],
    }


def _shape(config: LMConfig) -> dict[str, Any]:
    windowed = [layer for layer in range(config.n_layers) if config.has_window(layer)]
    return {
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "tied": config.tie_embeddings,
        "layers": config.n_layers,
        "width": config.d_model,
        "feed_forward": config.d_ff,
        "activation": config.activation,
        "norm": config.norm,
        "norm_position": config.norm_position,
        "heads": config.n_heads,
        "kv_heads": config.kv_heads,
        "head_size": config.head_size,
        "window": config.window,
        "window_layers": windowed,
        "position": config.position,
        "unrotated_layers": list(config.unrotated_layers),
        "rope": _rope(config.rope) if config.position == "rope" else None,
        "window_rope": _rope(config.window_rope) if config.window_rope is not None else None,
    }


def _rope(rope: RopeConfig) -> dict[str, Any]:
    return {
        "theta": rope.theta,
        "scaling": rope.scaling,
        "factor": rope.factor,
        "original_context": rope.original_context,
        "rotary_size": rope.rotary_size,
    }


def _text(text: TextAssets, vocab_size: int) -> dict[str, Any]:
    file = text.tokenizer.file
    return {
        "tokenizer": text.tokenizer.kind,
        "file": file,
        "tokens": min(vocab_size, 256) if text.tokenizer.kind == "bytes" else _tokens(text.files.get(file or "")),
        "chat_templates": [] if text.chat is None else list(text.chat.templates),
        "special_tokens": {} if text.chat is None else dict(text.chat.special_tokens),
        "bos_token_id": text.bos_token_id,
        "eos_token_ids": list(text.eos_token_ids),
        "pad_token_id": text.pad_token_id,
        "files_bytes": sum(map(len, text.files.values())),
    }


def _tokens(data: bytes | None) -> int | None:
    """Count the tokens of a tokenizer.json, which its reader has checked."""
    if data is None:
        return None
    content = json.loads(data)
    vocabulary, added = content["model"]["vocab"], {token["id"] for token in content.get("added_tokens", ())}
    own = set(vocabulary.values()) if isinstance(vocabulary, dict) else set(range(len(vocabulary)))
    return len(own | added)


def _cache(config: LMConfig) -> dict[str, int]:
    whole = cache_bytes(config, config.context_length)
    return {"token_bytes": cache_bytes(config, 1), "growing_most_bytes": whole, "buffer_bytes": whole}


def _targets() -> dict[str, Any]:
    told = {}
    for target in known_targets():
        told[target.name] = {
            "summary": target.summary,
            "precisions": list(target.precisions),
            "refused": dict(target.refused),
        }
    return told


def _precisions(known: Outline, machine: Machine) -> dict[str, Any]:
    """What each precision of the default target makes of the model; empty where its weights are not known."""
    target, config, parameters = get_target(DEFAULT_TARGET), known.config, known.parameters
    if config is None or parameters is None:
        return {}
    assets = 0 if known.text is None else sum(map(len, known.text.files.values()))
    found = {}
    for precision in target.precisions:
        size = bundle_size(config, precision, target.format, text_bytes=assets)
        taken = estimate(
            target.format.run_as(precision, in_blocks=INT8_IN_BLOCKS),
            parameters=parameters,
            layers=config.n_layers,
            vocab_size=config.vocab_size,
            machine=machine,
        )
        found[precision] = {
            "bundle_bytes": None if size is None else size.total,
            "weights_bytes": None if size is None else size.weights,
            "memory_bytes": taken.memory_bytes,
            "seconds": None if taken.seconds is None else round(taken.seconds),
            "measured_with": taken.way or None,
            "fits_memory": taken.fits_memory,
            "fits_disk": taken.fits_disk,
        }
    return found


def _size(count: float) -> str:
    unit, factor = next(((u, f) for u, f in BIGGEST_UNITS if count >= f), ("B", 1.0))
    return f"{count / factor:,.4g} {unit}"


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    known = [found["architecture"], f"family {found['family']}" if found["family"] else None, found["kind"]]
    yield f"{found['model']}: {', '.join(filter(None, known)) or 'not known yet'}; source {found['source']}"
    if found["parameters"] is None:
        return
    parts = found["parameters_of"] or {}
    of = ", ".join(f"{part} {count:,}" for part, count in parts.items() if count)
    yield f"parameters: {found['parameters']:,}{f' ({of})' if of else ''}"
    yield "on the disk: " + ", ".join(f"{name} {_size(count)}" for name, count in found["stored_bytes"].items())
    shape = found["shape"]
    if shape is None:
        return
    yield (
        f"layers: {shape['layers']} of {shape['width']:,}, feed-forward {shape['feed_forward']:,} "
        f"({shape['activation']}), {shape['norm']}, {shape['norm_position']}"
    )
    yield f"heads: {shape['heads']} of {shape['head_size']}, {shape['kv_heads']} of keys and values"
    yield f"context: {shape['context_length']:,} tokens; {_positions(shape)}"
    if shape["window"] is not None:
        yield f"window: {shape['window']:,} tokens in {len(shape['window_layers'])} of {shape['layers']} layers"
    yield (
        f"vocabulary: {shape['vocab_size']:,}, "
        f"{'the output layer is the embedding' if shape['tied'] else 'an output layer of its own'}"
    )
    yield from _text_lines(found["text"])
    cache = found["cache"]
    yield (
        f"KV cache: {cache['token_bytes']:,} bytes a token; {_size(cache['buffer_bytes'])} for the whole context "
        "(at most; TensorRT's buffers: from the start)"
    )


def _positions(shape: Mapping[str, Any]) -> str:
    if shape["rope"] is None:
        return f"{shape['position']} positions"
    rope, without = shape["rope"], len(shape["unrotated_layers"])
    told = f"rotary positions, theta {rope['theta']:,.0f}, scaling {rope['scaling']}"
    if rope["scaling"] != "none":
        told += f" by {rope['factor']:g}"
    return told + (f", none in {without} layers" if without else "")


def _text_lines(text: Mapping[str, Any]) -> Iterator[str]:
    kinds = {"none": "none: token ids go in and come out", "bytes": "bytes"}
    tokens = "" if text["tokens"] is None else f", {text['tokens']:,} tokens"
    yield f"tokenizer: {kinds.get(text['tokenizer'], text['file'])}{tokens}"
    ends = ", ".join(map(str, text["eos_token_ids"])) or "none"
    begins = "none" if text["bos_token_id"] is None else text["bos_token_id"]
    special = ", ".join(f"{name} {token!r}" for name, token in text["special_tokens"].items())
    yield f"tokens: begin {begins}, end {ends}, pad {text['pad_token_id']}{f'; {special}' if special else ''}"
    yield f"chat template: {', '.join(text['chat_templates']) or 'none'}"


def _print_precisions(console: Console, found: Mapping[str, Any]) -> None:
    from rich.table import Table

    targets = found["targets"]
    table = Table()
    for heading in (
        "precision",
        *targets,
        *(("bundle", "memory", "seconds", "fits here") if found["precisions"] else ()),
    ):
        table.add_column(heading, overflow="fold")
    names = list(dict.fromkeys(name for target in targets.values() for name in target["precisions"]))
    for name in names:
        row = [name, *("yes" if name in target["precisions"] else "no" for target in targets.values())]
        taken = found["precisions"].get(name)
        if taken is not None:
            size, seconds = taken["bundle_bytes"], taken["seconds"]
            row += [
                "-" if size is None else _size(size),
                _size(taken["memory_bytes"]),
                "-"
                if seconds is None
                else f"{seconds:,}" + (f" ({taken['measured_with']})" if taken["measured_with"] else ""),
                _fits(taken),
            ]
        table.add_row(*row)
    console.print(table)
    for target, facts in targets.items():
        for precision, why in facts["refused"].items():
            console.print(printable(f"{target} does not run {precision}: {why}"), soft_wrap=True, markup=False)
    if found["precisions"]:
        free = found["machine"]["memory_free_bytes"]
        here = f"{found['machine']['processors']} processors" + (
            "" if free is None else f", {_size(free)} of memory free"
        )
        console.print(
            f"bundle: on {found['sizes_on']}. memory and seconds: estimates, as measured on {found['estimates_from']}; "
            f"here: {here}",
            soft_wrap=True,
            markup=False,
        )


def _fits(taken: Mapping[str, Any]) -> str:
    missing = [what for what in ("memory", "disk") if taken[f"fits_{what}"] is False]
    return f"no: {' and '.join(missing)}" if missing else "yes"

"""What a GGUF file says about text: its tokenizer as a tokenizer.json, special tokens, chat templates, sampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aigc_models.sources.gguf.metadata import Metadata
from aigc_models.sources.gguf.tokenizer_json import make_tokenizer_json
from aigc_models.sources.gguf.vocabulary import Vocabulary
from aigc_models.text_assets import NO_TEXT, TextAssets
from aigc_models.text_assets.chat_templates import collect_chat
from aigc_models.text_assets.special_tokens import Added, SpecialTokens
from aigc_models.text_assets.text_files import MAX_TEMPLATES, TOKENIZER, TextFiles
from aigc_runtime.errors import AigcError, CheckpointError
from aigc_runtime.generation.chat import DEFAULT_TEMPLATE
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.io.printable import shown

__all__ = ["read_gguf_text"]

TEMPLATE = "tokenizer.chat_template"
_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""`general.sampling.*` -> field of `SamplingParams`."""


def read_gguf_text(meta: Metadata) -> TextAssets:
    """Read what a file says about text.

    Raises:
        CheckpointError: a tokenizer that is damaged, does not fit the model, or is not known; says which.
    """
    values = meta.file.metadata
    kind = values.get("tokenizer.ggml.model")
    if kind in (None, "none", "no_vocab"):
        return NO_TEXT
    try:
        vocabulary = Vocabulary.of(values, vocab_size=meta.vocab_size)
        content = make_tokenizer_json(kind, vocabulary, architecture=meta.architecture)
        named, ends = vocabulary.named(), vocabulary.ends()
        begin, pad = vocabulary.id("bos_token_id"), vocabulary.id("padding_token_id")
    except CheckpointError as err:
        raise CheckpointError(f"{str(meta.file.path)!r}: {err.message}", hint=err.hint) from err
    special = SpecialTokens(named={name: Added.plain(token) for name, token in named.items()})
    chat, templates, notes = collect_chat(TextFiles(templates=_templates(values)), special)
    return TextAssets(
        tokenizer=TokenizerInfo(kind="huggingface", file=TOKENIZER),
        chat=chat,
        bos_token_id=begin,
        eos_token_ids=ends,
        pad_token_id=pad if pad is not None else ends[0] if ends else 0,
        sampling=_sampling(values, str(meta.file.path)),
        files={TOKENIZER: content, **templates},
        notes=notes,
    )


def _templates(values: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates: name -> source."""
    others = values.get("tokenizer.chat_templates", [])
    if not isinstance(others, list) or len(others) > MAX_TEMPLATES:
        raise CheckpointError(f"tokenizer.chat_templates is {shown(others)}", hint=f"at most {MAX_TEMPLATES} names")
    found = {DEFAULT_TEMPLATE: values.get(TEMPLATE), **{str(o): values.get(f"{TEMPLATE}.{o}") for o in others}}
    return {name: source for name, source in found.items() if isinstance(source, str)}


def _sampling(values: Mapping[str, Any], what: str) -> SamplingParams:
    given = {ours: values[key] for name, ours in _SAMPLING.items() if (key := f"general.sampling.{name}") in values}
    try:
        return SamplingParams(**given)
    except (AigcError, TypeError) as err:
        raise CheckpointError(
            f"{what!r}: general.sampling.* says {shown(given)}: {err}", hint="the file is damaged: get it again"
        ) from err

"""The tokenizer of prompts: CLIP's, as a tokenizer.json that a device runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_models.text_assets.prompt_vectors import PromptOrigin
from aigc_models.text_assets.text_files import TOKENIZER, read_text_files
from aigc_models.text_assets.tokenizer_file import make_tokenizer_file
from aigc_runtime.errors import BundleError, CheckpointError, ConfigError
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer, TokenizerInfo
from aigc_runtime.io.printable import shown

__all__ = ["PromptTokenizer", "read_prompt_tokenizer"]

NO_LIMIT = 10**9
"""Where tokenizer_config.json says no length, transformers writes 10^30."""
MIN_TOKENS = 3


@dataclass(frozen=True, kw_only=True)
class PromptTokenizer:
    """How prompts become tokens.

    Attributes:
        info: which tokenizer, and of which of the files.
        files: name in the bundle -> content.
        pad_token_id: fills up shorter prompts.
        prompt_tokens: of every prompt, with the tokens that begin and end it.
        origin: where transformers reads the same.
        notes: for the user.
    """

    info: TokenizerInfo
    files: Mapping[str, bytes]
    pad_token_id: int
    prompt_tokens: int
    origin: PromptOrigin = field(default_factory=PromptOrigin)
    notes: tuple[str, ...] = ()


def read_prompt_tokenizer(folder: Path, text: ClipTextConfig, *, name: str = TOKENIZER) -> PromptTokenizer:
    """Read the tokenizer of a pipeline, and hold it against the text encoder.

    Args:
        folder: with tokenizer.json, or vocab.json and merges.txt.
        text: of the text encoder.
        name: of the file in the bundle.

    Raises:
        CheckpointError: none there, or a damaged one.
        ConfigError: it has more tokens than the text encoder knows, or longer prompts than it takes.
    """
    files = read_text_files(folder)
    # As diffusers loads it: by the class that CLIP has, whatever the folder calls it.
    settings = {**files.tokenizer_config, "tokenizer_class": "CLIPTokenizer"}
    made = make_tokenizer_file(replace(files, tokenizer_config=settings), {})
    if made is None:
        raise CheckpointError(
            f"{str(folder)!r} holds no tokenizer", hint="it needs vocab.json and merges.txt, or tokenizer.json"
        )
    try:
        tokenizer = HuggingFaceTokenizer(made.data, name=TOKENIZER)
    except BundleError as err:
        raise CheckpointError(err.message, hint=err.hint) from err
    if tokenizer.vocab_size > text.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, the text encoder's vocab_size is {text.vocab_size:,}",
            hint="the components do not belong together: copy the whole folder again",
        )
    notes = made.notes
    if tokenizer.vocab_size < text.vocab_size:
        notes = (
            *notes,
            f"the tokenizer has {tokenizer.vocab_size:,} of the {text.vocab_size:,} tokens that the text encoder "
            "knows: if it is another model's, prompts are misread",
        )
    pad = made.special.text("pad_token")
    pad_id = None if pad is None else tokenizer.id_of(pad)
    if pad_id is None:
        raise CheckpointError(f"the tokenizer lacks its pad_token {shown(pad)}", hint="get the folder again")
    return PromptTokenizer(
        info=TokenizerInfo(kind="huggingface", file=name),
        files={name: made.data},
        pad_token_id=pad_id,
        prompt_tokens=_length(files.tokenizer_config.get("model_max_length"), text.max_position_embeddings),
        origin=PromptOrigin(folder=folder),
        notes=notes,
    )


def _length(given: object, places: int) -> int:
    """How many tokens every prompt has."""
    if given is None or (isinstance(given, (int, float)) and given > NO_LIMIT):
        return places
    if type(given) is not int or given < MIN_TOKENS:
        raise CheckpointError(
            f"tokenizer_config.json: model_max_length is {shown(given)}",
            hint=f"must be a whole number of at least {MIN_TOKENS}: what begins a text, a token, and what ends it",
        )
    if given > places:
        raise ConfigError(
            f"the tokenizer's model_max_length is {given:,}, the text encoder's max_position_embeddings {places:,}",
            hint="the components do not belong together: copy the whole folder again",
        )
    return given

"""Read what a transformers folder says about text, and hold it against the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_models.text_assets.assets import NO_TEXT, TextAssets
from aigc_models.text_assets.chat_templates import collect_chat
from aigc_models.text_assets.generation_config import STOP_STRINGS, read_sampling, read_stop, token_ids
from aigc_models.text_assets.special_tokens import SpecialTokens
from aigc_models.text_assets.text_files import TOKENIZER, TextFiles, read_text_files
from aigc_models.text_assets.tokenizer_file import make_tokenizer_file
from aigc_runtime.errors import BundleError, CheckpointError, ConfigError
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer, TokenizerInfo

__all__ = ["make_text_assets", "read_text_assets"]


def read_text_assets(folder: Path | str, config: Mapping[str, Any], *, vocab_size: int) -> TextAssets:
    """Read what a folder says about text, without transformers.

    Args:
        folder: with tokenizer.json and the files beside it; without any, token ids go in and come out.
        config: content of the model's config.json.
        vocab_size: of the model.

    Raises:
        CheckpointError: a damaged file, or one that is too large.
        ConfigError: a tokenizer that is not the model's, that needs code of its own, or that cannot be converted.
    """
    return make_text_assets(read_text_files(Path(folder)), config, vocab_size=vocab_size)


def make_text_assets(files: TextFiles, config: Mapping[str, Any], *, vocab_size: int) -> TextAssets:
    """The same from files that were read, or made in memory.

    Raises:
        CheckpointError: see `read_text_assets`, also for the next one.
        ConfigError: likewise.
    """
    sampling, notes = read_sampling(files.generation_config)
    stop = read_stop(files.generation_config)
    made = make_tokenizer_file(files, config)
    if made is None:
        ids = _ids_of(files, config, SpecialTokens(), None, vocab_size)
        note = "the folder has no tokenizer: token ids go in and come out"
        unread = f"generation_config.json: not used without a tokenizer: {STOP_STRINGS} {list(stop)!r:.60}"
        notes = (*notes, *([unread] if stop else []), note)
        return TextAssets(tokenizer=NO_TEXT.tokenizer, **ids, sampling=sampling, notes=notes)
    try:
        tokenizer = HuggingFaceTokenizer(made.data, name=TOKENIZER)
    except BundleError as err:
        raise CheckpointError(err.message, hint=err.hint) from err
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"{TOKENIZER} has {tokenizer.vocab_size:,} tokens, the model {vocab_size:,}",
            hint="it is another model's: get the tokenizer that the model was trained with",
        )
    chat, templates, chat_notes = collect_chat(files, made.special)
    cleans = bool(files.tokenizer_config.get("clean_up_tokenization_spaces", False))
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    if files.tokenizer_config.get(forced):
        raise ConfigError(f"tokenizer_config.json has {forced}, which is not supported", hint="remove it")
    return TextAssets(
        tokenizer=TokenizerInfo(kind="huggingface", file=TOKENIZER, clean_up_spaces=cleans and not tokenizer.is_bpe),
        chat=chat,
        **_ids_of(files, config, made.special, tokenizer, vocab_size),
        sampling=sampling,
        stop=stop,
        files={TOKENIZER: made.data, **templates},
        folder=files.folder,
        notes=(*notes, *made.notes, *chat_notes),
    )


def _ids_of(
    files: TextFiles,
    config: Mapping[str, Any],
    special: SpecialTokens,
    tokenizer: HuggingFaceTokenizer | None,
    vocab_size: int,
) -> dict[str, Any]:
    """The ids that begin, end and fill a text: generation_config.json's, else config.json's, else the tokenizer's."""
    found: dict[str, tuple[int, ...]] = {}
    for name in ("bos", "eos", "pad"):
        field, own = f"{name}_token_id", _own_id(tokenizer, special.text(f"{name}_token"))
        said = token_ids(field, files.generation_config.get(field), where="generation_config.json")
        model = token_ids(field, config.get(field), where="config.json")
        found[name] = said or model or (() if own is None else (own,))
        for i in (*said, *model):
            _check_id(field, i, tokenizer, vocab_size)
        # A pad is never read, and a bos only where the tokenizer puts it.
        fits = own is None or not (said or model) or own in (*said, *model)
        if not fits and (
            name == "eos" or (name == "bos" and tokenizer is not None and own is not None and tokenizer.adds(own))
        ):
            raise ConfigError(
                f"the tokenizer's {name}_token {special.text(f'{name}_token')!r} is {own}, "
                f"the model's {field} is {_shown((*said, *model))}",
                hint="get the tokenizer that the model was trained with, or make config.json and "
                "tokenizer_config.json agree",
            )
    if len(found["bos"]) > 1 or len(found["pad"]) > 1:
        raise CheckpointError("bos_token_id or pad_token_id is a list", hint="only eos_token_id may hold several")
    return {
        "bos_token_id": found["bos"][0] if found["bos"] else None,
        "eos_token_ids": found["eos"],
        "pad_token_id": (*found["pad"], *found["eos"], 0)[0],
    }


def _own_id(tokenizer: HuggingFaceTokenizer | None, token: str | None) -> int | None:
    return None if tokenizer is None or token is None else tokenizer.id_of(token)


def _check_id(field: str, i: int, tokenizer: HuggingFaceTokenizer | None, vocab_size: int) -> None:
    if i >= vocab_size:
        raise ConfigError(f"{field} is {i}, the model has {vocab_size:,} tokens", hint="is config.json the model's?")
    if field == "eos_token_id" and tokenizer is not None and tokenizer.token(i) is None:
        raise ConfigError(
            f"{field} is {i}, for which the tokenizer has no token",
            hint="get the tokenizer that the model was trained with",
        )


def _shown(ids: tuple[int, ...]) -> str:
    return ", ".join(map(str, dict.fromkeys(ids)))

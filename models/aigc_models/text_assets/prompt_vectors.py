"""Record the rows of ids that text encoders are given for prompts, by transformers, and hold our own against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_models.program import Vectors
from aigc_models.text_assets.by_transformers import (
    open_data_with_transformers,
    open_with_transformers,
    quiet,
    tokenizers_version,
    transformers_version,
    why_not_compared,
)
from aigc_models.text_assets.samples import sample_prompts
from aigc_models.text_assets.vectors import TextDiffersError, dumped
from aigc_runtime.generation.tokenizers import HuggingFaceTokenizer
from aigc_runtime.pipelines.prompt_tokens import prompt_tokens
from aigc_runtime.pipelines.text_readers import PromptReader
from aigc_runtime.pipelines.text_to_image_settings import PromptInfo, TextToImageSettings
from aigc_runtime.proof.text_vectors import FORMAT, VERSION, PromptVector, TextVectors, replay_prompt

__all__ = ["PromptOrigin", "make_prompt_vectors"]

CLASS = "CLIPTokenizer"
"""Of transformers, which diffusers' pipelines load, whatever the folder calls it."""

_Row = Callable[[str], list[int]]
"""A prompt -> the row of ids of one text encoder."""


@dataclass(frozen=True, kw_only=True)
class PromptOrigin:
    """Where a tokenizer of prompts came from.

    Attributes:
        folder: where transformers can read it again; None for what was made in memory.
        learned: tokens that were added to it, in their order: textual inversions.
    """

    folder: Path | None = None
    learned: tuple[str, ...] = ()


def make_prompt_vectors(
    settings: TextToImageSettings, assets: Mapping[str, bytes], origins: Mapping[str, PromptOrigin]
) -> Vectors:
    """Record the rows of about 100 prompts for every text encoder.

    transformers records them where it is installed, from the folder that a tokenizer came from, or else from the file
    of the bundle; without it our own reading does, by the `tokenizers` library.

    Args:
        settings: of the pipeline.
        assets: the files of its tokenizers.
        origins: by the role of the text encoder, as far as they are known.

    Raises:
        TextDiffersError: our own reading gives other ids; names the first.
    """
    readers: dict[str, PromptReader] = {role: made.encode for role, made in prompt_tokens(settings, assets).items()}
    version = transformers_version()
    why_not = why_not_compared(version)
    notes: list[str] = [] if why_not is None else [why_not]
    rows: dict[str, _Row] = {}
    for role, info in settings.prompt_infos.items():
        if why_not is not None or info.tokenizer.file is None:
            rows[role] = _ours(readers[role])
            continue
        origin = origins.get(role, PromptOrigin())
        theirs = open_with_transformers(origin.folder, kind=CLASS)
        if theirs is None:
            if origin.folder is not None:
                notes.append(
                    f"transformers does not read the tokenizer of {role}: token ids are compared over the bundle's own"
                )
            theirs = _over_file(info, assets)
        elif origin.learned:
            theirs.add_tokens(list(origin.learned))
        rows[role] = _theirs(theirs, settings.prompt_tokens)
    learned = dict.fromkeys(token for origin in origins.values() for token in _tried(origin.learned))
    prompts = tuple(
        PromptVector(text=text, ids={role: tuple(row(text)) for role, row in rows.items()})
        for text in sample_prompts(learned)
    )
    made_by = f"tokenizers {tokenizers_version()}" if why_not is not None else f"transformers {version}"
    found = next((d for v in prompts if (d := replay_prompt(readers, v)) is not None), None)
    if found is not None:
        raise TextDiffersError(
            f"a tokenizer is not read as {made_by} reads it: {found}",
            hint="report it with the model's tokenizer files; nothing was published",
        )
    vectors = TextVectors(format=FORMAT, version=VERSION, made_by=made_by, prompts=prompts)
    return Vectors(data=dumped(vectors), made_by=made_by, notes=tuple(notes))


def _tried(learned: tuple[str, ...]) -> list[str]:
    """The learned tokens that are tried within prompts: not those that stand behind another one, `TOKEN_1` and so on.

    A token of several vectors with capital letters is not either: diffusers, which compares it with text whose letters
    are small already, takes its first vector alone, and all of them are taken here.
    """
    first = [token for token in learned if not any(token.startswith(f"{other}_") for other in learned)]
    return [token for token in first if token == token.lower() or f"{token}_1" not in learned]


def _ours(reader: PromptReader) -> _Row:
    def row(text: str) -> list[int]:
        ids: list[int] = reader([text])[0].tolist()
        return ids

    return row


def _theirs(tokenizer: Any, length: int) -> _Row:
    def row(text: str) -> list[int]:
        with quiet():
            written = _written_out(tokenizer, text)
            found = tokenizer(written, padding="max_length", max_length=length, truncation=True)
        return [int(i) for i in found.input_ids]

    return row


def _written_out(tokenizer: Any, text: str) -> str:
    """A prompt whose tokens of several vectors are followed by their others, as diffusers' pipelines write it."""
    added = tokenizer.added_tokens_encoder
    for token in dict.fromkeys(tokenizer.tokenize(text)):
        if f"{token}_1" in added:
            more = [token]
            while (following := f"{token}_{len(more)}") in added:
                more.append(following)
            text = text.replace(token, " ".join(more))
    return text


def _over_file(info: PromptInfo, assets: Mapping[str, bytes]) -> Any:
    data = assets[info.tokenizer.file or ""]
    pad = HuggingFaceTokenizer(data).token(info.pad_token_id)
    return open_data_with_transformers(data, clean_up_spaces=False, special_tokens={"pad_token": pad or ""})
